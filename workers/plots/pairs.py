"""The flow's samples beside the data, column by column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from symadj.workers.plots.figures import DATA, SAMPLES, figure_of, png, write
from symadj.workers.plots.units import TRANSFORMED, Units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["MAX_PAIR_COLUMNS", "bin_edges", "draw_pairs"]

Rows = NDArray[np.float64]

MAX_PAIR_COLUMNS = 10
_MOST_BINS = 60
_FEWEST_BINS = 12
_FEWEST_ROWS = 1000  # for a density of two columns; with fewer, the points show more
_LONGEST_NAME = 14  # of a column, in characters; as many as there is room for


def draw_pairs(data: Rows, samples: Rows, columns: Sequence[str], title: str, units: Units = TRANSFORMED) -> bytes:
    """Draw the densities of all pairs of columns, data as colour and samples as contour lines; return a PNG.

    The lines hold 40, 75 and 95 % of the samples. Of few rows, the points are drawn instead.

    Args:
        data: [n, dim], in the space that the flow models.
        samples: [m, dim], of the flow.
        columns: the names of the columns; the first ``MAX_PAIR_COLUMNS`` are drawn.
        title: above the picture.
        units: in which both are drawn.
    """
    data, samples = units.place(data), units.place(samples)
    dim = min(len(columns), MAX_PAIR_COLUMNS)
    size = max(4.0, 1.25 * dim)
    figure = figure_of(size, size + 0.6)
    grid = figure.subplots(dim, dim, squeeze=False)
    edges = [bin_edges(data[:, column]) for column in range(dim)]
    for row in range(dim):
        for column in range(dim):
            axes = grid[row, column]
            axes.tick_params(labelsize=6, length=2)
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_offset_text().set_fontsize(6)
            if column > row:
                axes.remove()
                continue
            if column == row:
                _draw_marginal(axes, data[:, row], samples[:, row], edges[row])
            else:
                pair = [column, row]
                _draw_pair(axes, data[:, pair], samples[:, pair], edges[column], edges[row])
            axes.set_xlim(edges[column][0], edges[column][-1])
            if row == dim - 1:
                write(axes.set_xlabel, columns[column], _LONGEST_NAME, fontsize=8)
                units.mark(axes.xaxis, column, edges[column][0], edges[column][-1])
            else:
                axes.set_xticks([])
            if row and not column:
                write(axes.set_ylabel, columns[row], _LONGEST_NAME, fontsize=8)
                units.mark(axes.yaxis, row, edges[row][0], edges[row][-1])
            else:
                axes.set_yticks([])
    part = f", first {dim} of {len(columns)} columns" if dim < len(columns) else ""
    write(figure.suptitle, title + part, most=int(11 * size), fontsize=10, x=0.01, ha="left")
    figure.legend(
        handles=[
            _swatch(DATA, f"test data ({len(data):,} rows)"),
            _swatch(SAMPLES, f"flow ({len(samples):,} samples)"),
        ],
        loc="outside lower left",
        ncols=2,
        frameon=False,
        fontsize=8,
        title=units.words,
        title_fontsize=8,
        alignment="left",
    )
    return png(figure)


def _draw_marginal(axes: Axes, data: Rows, samples: Rows, edges: Rows) -> None:
    # Shares of all rows and samples: of those within the picture alone, a flow half beside the data would look right.
    styles: tuple[dict[str, Any], ...] = (
        {"color": DATA, "alpha": 0.35, "lw": 0},
        {"color": SAMPLES, "histtype": "step", "lw": 1},
    )
    for values, style in zip((data, samples), styles, strict=True):
        axes.hist(values, edges.tolist(), weights=np.full(len(values), 1 / len(values)), **style)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_pair(axes: Axes, data: Rows, samples: Rows, x_edges: Rows, y_edges: Rows) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    if min(len(data), len(samples)) < _FEWEST_ROWS:
        axes.plot(*data.T, ".", ms=2.5, color=DATA, alpha=0.6)
        axes.plot(*samples.T, "+", ms=3, mew=0.5, color=SAMPLES, alpha=0.8)
        axes.set_ylim(y_edges[0], y_edges[-1])
        return
    x_edges, y_edges = (np.linspace(edges[0], edges[-1], _MOST_BINS + 1) for edges in (x_edges, y_edges))
    density = _density(data, x_edges, y_edges)
    colours = LinearSegmentedColormap.from_list("data", ["#ffffff", "#90cdf4", DATA, "#1a365d"])
    extent = (x_edges[0], x_edges[-1], y_edges[0], y_edges[-1])
    axes.imshow(
        np.sqrt(density).T, origin="lower", extent=extent, aspect="auto", cmap=colours, interpolation="bilinear"
    )
    flow = _density(samples, x_edges, y_edges)
    levels = np.unique(_mass_levels(flow, (0.95, 0.75, 0.4)))
    centres = [(edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges)]
    if len(levels) and flow.max() > 0:
        axes.contour(*centres, flow.T, levels=levels, colors=SAMPLES, linewidths=0.7)


def _density(points: Rows, x_edges: Rows, y_edges: Rows) -> Rows:
    """Return the share of ``points`` [n, 2] in each cell, smoothed a little."""
    from scipy.ndimage import gaussian_filter  # as slow to import as matplotlib

    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=(x_edges, y_edges))
    return np.asarray(gaussian_filter(counts, 1.0, mode="constant", truncate=3.0) / len(points))


def _mass_levels(density: Rows, masses: Sequence[float]) -> Rows:
    """Return the densities whose upper level sets hold the shares ``masses``; less where so much is not in view."""
    ordered = np.sort(density.ravel())[::-1]
    places = np.searchsorted(np.cumsum(ordered), masses)
    return np.asarray(ordered[np.minimum(places, len(ordered) - 1)])


def bin_edges(values: Rows, most: int = _MOST_BINS) -> Rows:
    """Return the edges [bins + 1] of at most so many bins of one width that hold all of ``values`` [n] but outliers."""
    low, high = np.quantile(values, [0.002, 0.998])
    # Of a column that hardly varies, something on either side.
    margin = 0.08 * (high - low) or 0.5 * max(abs(high), 1.0)
    bins = int(np.clip(math.sqrt(len(values)), _FEWEST_BINS, most))
    return np.linspace(low - margin, high + margin, bins + 1)


def _swatch(colour: str, label: str) -> Patch:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
