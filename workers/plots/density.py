"""The density of a two-dimensional flow over the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from symadj.workers.plane_density import PlaneDensity
from symadj.workers.plots.figures import DATA, SAMPLES, figure_of, png, write

__all__ = ["draw_density"]


def draw_density(
    density: PlaneDensity,
    rows: NDArray[np.float64],
    samples: NDArray[np.float64],
    columns: Sequence[str],
    title: str,
) -> bytes:
    """Draw the density as colour with its integral; beside it ``samples`` and ``rows`` of the data [n, 2], as many.

    Returns:
        a PNG.
    """
    count = min(len(rows), len(samples))
    figure = figure_of(12.6, 4.6)
    all_axes = figure.subplots(1, 3, sharex=True, sharey=True)
    left, *others = all_axes
    # The points are the middles of cells.
    extent = [edge for points in (density.x, density.y) for edge in _edges(points)]
    # Peaks are a few times as high as the rest.
    image = left.imshow(np.sqrt(density.density).T, origin="lower", extent=extent, aspect="auto", cmap="magma")
    left.set_title(f"density, integral over the plane {density.integral:.5f}", fontsize=10, loc="left")
    figure.colorbar(image, ax=list(all_axes), label="square root of the density", shrink=0.85)
    for axes, points, colour, what in zip(
        others, (samples, rows), (SAMPLES, DATA), ("samples", "test rows"), strict=True
    ):
        axes.plot(points[:count, 0], points[:count, 1], ".", ms=1.5, alpha=0.5, color=colour)
        axes.set_title(f"{count:,} {what}", fontsize=10, loc="left")
    write(figure.suptitle, title, fontsize=11, x=0.01, ha="left")
    write(left.set_ylabel, columns[1])
    # The grid reaches far into the tails, where there is nothing to see.
    for axis, limit in ((0, left.set_xlim), (1, left.set_ylim)):
        low, high = rows[:, axis].min(), rows[:, axis].max()
        if low < high:
            limit(low - 0.2 * (high - low), high + 0.2 * (high - low))
    for axes in all_axes:
        write(axes.set_xlabel, columns[0], most=40)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _edges(points: NDArray[np.float64]) -> tuple[float, float]:
    half = (points[1] - points[0]) / 2
    return float(points[0] - half), float(points[-1] + half)
