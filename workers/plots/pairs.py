"""The flow's samples beside the data, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workers.plots.figures import DATA, SAMPLES, figure_of, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["draw_pairs"]

Rows = NDArray[np.float64]

MAX_PAIR_COLUMNS = 10
_BINS = 60


def draw_pairs(data: Rows, samples: Rows, columns: Sequence[str], title: str) -> bytes:
    """Draw the densities of all pairs of columns, data as colour and samples as contour lines; return a PNG.

    Args:
        data: [n, dim], in the space that the flow models.
        samples: [m, dim], of the flow.
        columns: the names of the columns; the first ``MAX_PAIR_COLUMNS`` are drawn.
        title: above the picture.
    """
    dim = min(len(columns), MAX_PAIR_COLUMNS)
    size = max(4.0, 1.25 * dim)
    figure = figure_of(size, size)
    grid = figure.subplots(dim, dim, squeeze=False)
    edges = [_edges(data[:, column]) for column in range(dim)]
    for row in range(dim):
        for column in range(dim):
            axes = grid[row, column]
            axes.tick_params(labelsize=6, length=2)
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
                axes.set_xlabel(columns[column], fontsize=8)
            else:
                axes.set_xticks([])
            if row and not column:
                axes.set_ylabel(columns[row], fontsize=8)
            else:
                axes.set_yticks([])
    figure.suptitle(title, fontsize=11, x=0.98, y=0.98, ha="right")
    legend = figure.legend(
        handles=[
            _swatch(DATA, f"data ({len(data):,} rows)"),
            _swatch(SAMPLES, f"flow ({len(samples):,} samples)"),
        ],
        loc="upper right",
        bbox_to_anchor=(0.98, 0.955),
        frameon=False,
        fontsize=9,
    )
    legend.set_in_layout(False)
    return png(figure)


def _draw_marginal(axes: Axes, data: Rows, samples: Rows, edges: Rows) -> None:
    axes.hist(data, edges.tolist(), density=True, color=DATA, alpha=0.35, lw=0)
    axes.hist(samples, edges.tolist(), density=True, color=SAMPLES, histtype="step", lw=1)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_pair(axes: Axes, data: Rows, samples: Rows, x_edges: Rows, y_edges: Rows) -> None:
    from matplotlib.colors import LinearSegmentedColormap

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
    """Return a histogram of ``points`` [n, 2], smoothed a little."""
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=(x_edges, y_edges))
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / 1.0) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        counts = np.apply_along_axis(np.convolve, axis, counts, kernel, mode="same")
    return np.asarray(counts)


def _mass_levels(density: Rows, masses: Sequence[float]) -> Rows:
    """Return the densities whose upper level sets hold the shares ``masses`` of all mass."""
    ordered = np.sort(density.ravel())[::-1]
    held = np.cumsum(ordered)
    places = np.searchsorted(held, np.asarray(masses) * held[-1])
    return np.asarray(ordered[np.minimum(places, len(ordered) - 1)])


def _edges(values: Rows) -> Rows:
    low, high = np.quantile(values, [0.002, 0.998])
    margin = 0.08 * (high - low) + 1e-9
    return np.linspace(low - margin, high + margin, _BINS + 1)


def _swatch(colour: str, label: str) -> Patch:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
