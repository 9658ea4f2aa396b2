"""The calibration of a conditional flow, as the result tells it."""

from __future__ import annotations

import math

import numpy as np

from symadj.service.contract.result import Calibration
from symadj.workers.plots.figures import DATA, GREY, SAMPLES, figure_of, plain, png, say_below, short, write

__all__ = ["draw_coverage", "draw_ranks"]

_MOST_COLUMNS = 12
_ACROSS = 4


def draw_ranks(calibration: Calibration, title: str) -> bytes:
    """Draw how many rows have which rank among their draws, column by column, with the band of a right flow.

    Args:
        calibration: its first ``_MOST_COLUMNS`` columns are drawn.
        title: above the picture.

    Returns:
        a PNG.
    """
    columns = calibration.columns[:_MOST_COLUMNS]
    across = min(_ACROSS, len(columns))
    down = math.ceil(len(columns) / across)
    figure = figure_of(max(5.0, 2.7 * across), 2.1 * down + 0.9)
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(columns) :]:
        axes.remove()
    for axes, column in zip(grid.flat, columns, strict=False):
        axes.axhspan(calibration.counts_low, calibration.counts_high, color=GREY, alpha=0.3, lw=0, zorder=2)
        axes.axhline(calibration.counts_expected, color=GREY, lw=0.8, ls="--")
        axes.stairs(column.counts, np.linspace(0, 1, len(column.counts) + 1), fill=True, color=DATA, alpha=0.6)
        write(axes.set_title, f"{short(column.column, 20)}: p {_p(column.ks_p)}", fontsize=9, loc="left")
        axes.set_xlim(0, 1)
        axes.tick_params(labelsize=7)
        plain(axes)
    shown = f", {len(columns)} of {calibration.columns_tested} columns"
    write(
        figure.suptitle,
        title + (shown if len(columns) < calibration.columns_tested else ""),
        most=int(14 * figure.get_figwidth()),
        fontsize=10,
        x=0.01,
        ha="left",
    )
    grid[0, 0].set_ylabel("rows", fontsize=8)
    say_below(
        figure,
        f"share of the {calibration.draws:,} draws below the row's value, {calibration.rows:,} rows\n"
        "grey: 99 of 100 bars of a right flow\np: Kolmogorov-Smirnov, of each column",
    )
    return png(figure)


def draw_coverage(calibration: Calibration, title: str) -> bytes:
    """Draw how many rows regions of each level hold, for highest-density regions and TARP; return a PNG."""
    figure = figure_of(9.0, 4.9)
    ends = [0.0, *calibration.levels, 1.0]
    diagonal = np.array([0.0, 1.0])
    for axes, name, curve, colour in zip(
        figure.subplots(1, 2, sharex=True, sharey=True),
        ("regions of highest density", "balls around random points (TARP)"),
        (calibration.highest_density, calibration.tarp),
        (DATA, SAMPLES),
        strict=True,
    ):
        axes.fill_between(diagonal, diagonal - calibration.band, diagonal + calibration.band, color=GREY, alpha=0.25)
        axes.plot(diagonal, diagonal, color=GREY, lw=0.8, ls="--")
        axes.plot(ends, [0.0, *curve.coverage, 1.0], "o-", color=colour, ms=3, lw=1.2)
        said = f"p {_p(curve.ks_p)}, area {curve.area:+.3f} (std. error {curve.area_stderr:.3f})"
        axes.set_title(f"{name}\n{said}", fontsize=9, loc="left")
        axes.set_xlabel("level: share of the draws in the region", fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        plain(axes)
    figure.axes[0].set_ylabel("coverage: share of the rows in theirs", fontsize=8)
    write(figure.suptitle, title, fontsize=10, x=0.01, ha="left")
    say_below(
        figure,
        f"{calibration.rows:,} rows, {calibration.draws:,} draws for each; grey: curves of 95 of 100 right flows stay "
        "within it\ndensity: below the diagonal the flow is too sure, above it not sure enough; TARP: likewise, in its "
        "upper half",
    )
    return png(figure)


def _p(value: float) -> str:
    """Return a p value with two digits."""
    return f"{value:.2g}"
