"""The density of a two-dimensional flow over the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from symadj.workers.plane_density import PlaneDensity
from symadj.workers.plots.figures import DATA, SAMPLES, figure_of, png, say_below, write
from symadj.workers.plots.units import TRANSFORMED, Units

__all__ = ["draw_density"]


def draw_density(
    density: PlaneDensity,
    rows: NDArray[np.float64],
    samples: NDArray[np.float64],
    columns: Sequence[str],
    title: str,
    units: Units = TRANSFORMED,
) -> bytes:
    """Draw the density as colour with its integral; beside it ``samples`` and ``rows`` of the data [n, 2], as many.

    All are of the flow's space, and drawn in ``units``: the density too.

    Returns:
        a PNG.
    """
    count = min(len(rows), len(samples))
    figure = figure_of(12.6, 4.6)
    all_axes = figure.subplots(1, 3, sharex=True, sharey=True)
    left, *others = all_axes
    x, y, values = units.plane(density)
    rows, samples = units.place(rows), units.place(samples)
    # Peaks are a few times as high as the rest.
    image = left.pcolormesh(x, y, np.sqrt(values).T, cmap="magma", rasterized=True)
    left.set_title(f"density, integral over the plane {density.integral:.5f}", fontsize=10, loc="left")
    figure.colorbar(image, ax=list(all_axes), label=f"square root of the density\nin {units.name}", shrink=0.85)
    for axes, points, colour, what in zip(
        others, (samples, rows), (SAMPLES, DATA), ("samples", "test rows"), strict=True
    ):
        axes.plot(points[:count, 0], points[:count, 1], ".", ms=1.5, alpha=0.5, color=colour)
        axes.set_title(f"{count:,} {what}", fontsize=10, loc="left")
    write(figure.suptitle, title, fontsize=11, x=0.01, ha="left")
    write(left.set_ylabel, columns[1])
    # The grid reaches far into the tails, where there is nothing to see.
    for column, axis, limit in ((0, left.xaxis, left.set_xlim), (1, left.yaxis, left.set_ylim)):
        low, high = rows[:, column].min(), rows[:, column].max()
        if low < high:
            low, high = low - 0.2 * (high - low), high + 0.2 * (high - low)
            limit(low, high)
            units.mark(axis, column, low, high)
    for axes in all_axes:
        write(axes.set_xlabel, columns[0], most=40)
        axes.spines[["top", "right"]].set_visible(False)
    say_below(figure, units.words)
    return png(figure)
