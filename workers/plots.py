"""Pictures of a run as PNG: the course of training, and the flow's samples beside the data."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workers.history import Course, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["draw_curve", "draw_pairs"]

Rows = NDArray[np.float64]

MAX_PAIR_COLUMNS = 10
_DATA, _SAMPLES = "#2b6cb0", "#dd6b20"
_BINS = 60


def draw_curve(history: History, title: str, test_nll: float | None, baselines: dict[str, float]) -> bytes:
    """Draw loss, validation NLL, field evaluations and peak memory along the steps; return a PNG."""
    figure = _figure(8.0, 7.0)
    loss_axes, nfe_axes, memory_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.2, 1.2))
    course = history.course()
    _draw_loss(loss_axes, course, history.validation, test_nll, baselines)
    loss_axes.set_title(title, fontsize=11, loc="left")

    nfe_axes.plot(course.steps, course.nfe_forward, label="forward", color=_DATA, lw=1)
    nfe_axes.plot(course.steps, course.nfe_backward, label="backward", color=_SAMPLES, lw=1, ls="--")
    nfe_axes.set_ylabel("nfe a step")
    nfe_axes.set_ylim(bottom=0)
    nfe_axes.legend(fontsize=8, frameon=False, ncols=2)

    # The first step also pays for what libraries set up once, and would hide the others.
    memory_axes.plot(course.steps[1:], course.memory_bytes[1:] / 2**20, color="#555555", lw=1)
    memory_axes.set_ylim(bottom=0)
    memory_axes.set_ylabel("memory peak\nabove idle, MiB")
    memory_axes.set_xlabel("step")
    for axes in (loss_axes, nfe_axes, memory_axes):
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


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
    figure = _figure(size, size)
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
            _swatch(_DATA, f"data ({len(data):,} rows)"),
            _swatch(_SAMPLES, f"flow ({len(samples):,} samples)"),
        ],
        loc="upper right",
        bbox_to_anchor=(0.98, 0.955),
        frameon=False,
        fontsize=9,
    )
    legend.set_in_layout(False)
    return _png(figure)


def _draw_loss(
    axes: Axes,
    course: Course,
    validation: Sequence[tuple[int, float]],
    test_nll: float | None,
    baselines: dict[str, float],
) -> None:
    axes.plot(course.steps, course.loss, color=_DATA, lw=0.8, alpha=0.8, label="training loss")
    if validation:
        at, value = zip(*validation, strict=True)
        axes.plot(at, value, "o-", color=_SAMPLES, ms=3, lw=1.2, label="validation")
    if test_nll is not None:
        axes.axhline(test_nll, color="#2f855a", lw=1.2, label=f"test {test_nll:.3f}")
    for (name, nll), style in zip(baselines.items(), ("--", ":"), strict=False):
        axes.axhline(nll, color="#555555", lw=1, ls=style, label=f"{name} {nll:.2f}")
    limits = [*baselines.values(), *([] if test_nll is None else [test_nll])]
    # The first few steps may be far above all that follows and would press it flat.
    top = max([float(np.quantile(course.loss, 0.98)), *limits])
    bottom = min([float(course.loss.min()), *limits])
    margin = 0.05 * (top - bottom) + 1e-9
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_ylabel("negative log-likelihood,\nnats a row")
    axes.legend(fontsize=8, framealpha=0.6, edgecolor="none", ncols=2, loc="upper right")


def _draw_marginal(axes: Axes, data: Rows, samples: Rows, edges: Rows) -> None:
    axes.hist(data, edges.tolist(), density=True, color=_DATA, alpha=0.35, lw=0)
    axes.hist(samples, edges.tolist(), density=True, color=_SAMPLES, histtype="step", lw=1)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_pair(axes: Axes, data: Rows, samples: Rows, x_edges: Rows, y_edges: Rows) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    density = _density(data, x_edges, y_edges)
    colours = LinearSegmentedColormap.from_list("data", ["#ffffff", "#90cdf4", _DATA, "#1a365d"])
    extent = (x_edges[0], x_edges[-1], y_edges[0], y_edges[-1])
    axes.imshow(
        np.sqrt(density).T, origin="lower", extent=extent, aspect="auto", cmap=colours, interpolation="bilinear"
    )
    flow = _density(samples, x_edges, y_edges)
    levels = np.unique(_mass_levels(flow, (0.95, 0.75, 0.4)))
    centres = [(edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges)]
    if len(levels) and flow.max() > 0:
        axes.contour(*centres, flow.T, levels=levels, colors=_SAMPLES, linewidths=0.7)


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


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: no global state, no display, and safe beside other threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _swatch(colour: str, label: str) -> Patch:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
