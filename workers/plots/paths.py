"""Trajectories of a flow between base and data, and the solver's steps along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from symadj.workers.plots.figures import DATA, GREY, SAMPLES, figure_of, plain, png, say_below, write
from symadj.workers.plots.units import TRANSFORMED, Units

__all__ = ["draw_steps", "draw_trajectories"]

Rows = NDArray[np.float64]


def draw_trajectories(paths: Rows, rows: Rows, columns: Sequence[str], title: str, units: Units = TRANSFORMED) -> bytes:
    """Draw paths [T, n, dim] from base to data in the first two columns, over some rows [m, dim]; return a PNG.

    Both are of the flow's space, and brought to ``units`` point by point, the base too.
    """
    paths, rows = units.place(paths), units.place(rows)
    figure = figure_of(6.0, 6.4)
    axes = figure.subplots()
    axes.plot(rows[:, 0], rows[:, 1], ".", ms=2, alpha=0.25, color=DATA, label="test data")
    axes.plot(paths[:, :, 0], paths[:, :, 1], color=GREY, lw=0.6, alpha=0.5)
    for place, face, label in ((0, "none", "base samples"), (-1, SAMPLES, "where they end")):
        axes.plot(*paths[place, :, :2].T, "o", ms=3.5, mfc=face, mec=SAMPLES, mew=0.7, label=label)
    write(axes.set_xlabel, columns[0])
    write(axes.set_ylabel, columns[1])
    write(figure.suptitle, title, most=70, fontsize=10, x=0.01, ha="left")
    # Above the axes, where it hides nothing.
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    plain(axes)
    for column, axis, (low, high) in ((0, axes.xaxis, axes.get_xlim()), (1, axes.yaxis, axes.get_ylim())):
        units.mark(axis, column, low, high)
    say_below(figure, units.words)
    return png(figure)


def draw_steps(steps: Mapping[str, tuple[Rows, Rows]], ends: Sequence[float], title: str) -> bytes:
    """Draw the sizes of accepted steps along the flow's time; return a PNG.

    Args:
        steps: by the name in the legend, times at their start [n] and sizes [n].
        ends: the flow's time at the end of each block.
        title: above the picture.
    """
    figure = figure_of(8.0, 3.8)
    axes = figure.subplots()
    styles = ((DATA, "-", "o"), (SAMPLES, "--", "s"))
    for (name, (starts, sizes)), (colour, line, marker) in zip(steps.items(), styles, strict=False):
        axes.stairs(sizes, [*starts, starts[-1] + sizes[-1]], baseline=None, color=colour, lw=1, ls=line)
        axes.plot(starts + sizes / 2, sizes, marker, ms=3, color=colour, label=f"{name}: {len(sizes)} steps")
    for end in ends[:-1]:
        axes.axvline(end, color=GREY, lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_xlabel("time t of the flow, data to base" + (" (dotted: ends of blocks)" if len(ends) > 1 else ""))
    axes.set_ylabel("size of the accepted step")
    write(figure.suptitle, title, fontsize=10, x=0.01, ha="left")
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    plain(axes)
    return png(figure)
