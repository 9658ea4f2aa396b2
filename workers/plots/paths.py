"""How a flow gets from base to data: trajectories, and the solver's steps along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.plots.figures import DATA, GREY, SAMPLES, figure_of, plain, png

__all__ = ["draw_steps", "draw_trajectories"]

Rows = NDArray[np.float64]


def draw_trajectories(paths: Rows, rows: Rows, columns: Sequence[str], title: str) -> bytes:
    """Draw paths [T, n, dim] from base to data in the first two columns, over some rows [m, dim]; return a PNG."""
    figure = figure_of(6.0, 6.0)
    axes = figure.subplots()
    axes.plot(rows[:, 0], rows[:, 1], ".", ms=2, alpha=0.25, color=DATA, label="test data")
    axes.plot(paths[:, :, 0], paths[:, :, 1], color=GREY, lw=0.6, alpha=0.5)
    for place, style, label in ((0, "o", "base samples"), (-1, "o", "where they go")):
        face = "none" if place == 0 else SAMPLES
        axes.plot(*paths[place, :, :2].T, style, ms=3.5, mfc=face, mec=SAMPLES, mew=0.7, label=label)
    axes.set_xlabel(columns[0])
    axes.set_ylabel(columns[1])
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=8, framealpha=0.6, edgecolor="none")
    plain(axes)
    return png(figure)


def draw_steps(steps: Mapping[str, tuple[Rows, Rows]], ends: Sequence[float], title: str) -> bytes:
    """Draw the sizes of accepted steps along the flow's time; return a PNG.

    Args:
        steps: by what they are called, times at their start [n] and sizes [n].
        ends: the flow's time at the end of each block.
        title: above the picture.
    """
    figure = figure_of(8.0, 3.6)
    axes = figure.subplots()
    for (name, (starts, sizes)), colour in zip(steps.items(), (DATA, SAMPLES), strict=False):
        axes.stairs(sizes, [*starts, starts[-1] + sizes[-1]], baseline=None, color=colour, lw=1)
        axes.plot(starts + sizes / 2, sizes, ".", ms=4, color=colour, label=f"{name}: {len(sizes)} steps")
    for end in ends[:-1]:
        axes.axvline(end, color=GREY, lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_xlabel("time t of the flow, data to base" + (" (dotted: ends of blocks)" if len(ends) > 1 else ""))
    axes.set_ylabel("size of the accepted step")
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=8, framealpha=0.6, edgecolor="none")
    plain(axes)
    return png(figure)
