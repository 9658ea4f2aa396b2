"""The course of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workers.history import Course, History
from workers.plots.figures import DATA, GREY, SAMPLES, figure_of, plain, png
from workers.validation import Validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curve"]


def draw_curve(
    history: History,
    validations: Sequence[Validation],
    title: str,
    test_nll: float | None,
    baselines: dict[str, float],
) -> bytes:
    """Draw loss, validation NLL, field evaluations and peak memory along the steps; return a PNG."""
    figure = figure_of(8.0, 7.0)
    loss_axes, nfe_axes, memory_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.2, 1.2))
    course = history.course()
    _draw_loss(loss_axes, course, validations, test_nll, baselines)
    loss_axes.set_title(title, fontsize=11, loc="left")

    nfe_axes.plot(course.steps, course.nfe_forward, label="forward", color=DATA, lw=1)
    nfe_axes.plot(course.steps, course.nfe_backward, label="backward", color=SAMPLES, lw=1, ls="--")
    nfe_axes.set_ylabel("nfe a step")
    nfe_axes.set_ylim(bottom=0)
    nfe_axes.legend(fontsize=8, frameon=False, ncols=2)

    # The first step also pays for what libraries set up once, and would hide the others.
    memory_axes.plot(course.steps[1:], course.memory_bytes[1:] / 2**20, color=GREY, lw=1)
    memory_axes.set_ylim(bottom=0)
    memory_axes.set_ylabel("memory peak\nabove idle, MiB")
    memory_axes.set_xlabel("step")
    for axes in (loss_axes, nfe_axes, memory_axes):
        plain(axes)
    return png(figure)


def _draw_loss(
    axes: Axes,
    course: Course,
    validations: Sequence[Validation],
    test_nll: float | None,
    baselines: dict[str, float],
) -> None:
    axes.plot(course.steps, course.nll, color=DATA, lw=0.8, alpha=0.8, label="training")
    matched = np.isfinite(course.flow_matching_loss)
    if matched.any():
        # Another quantity, on a scale of its own.
        beside = axes.twinx()
        beside.plot(course.steps[matched], course.flow_matching_loss[matched], color="#b83280", lw=0.8, alpha=0.6)
        beside.set_ylabel("flow-matching loss", color="#b83280", fontsize=8)
        beside.tick_params(labelsize=7, colors="#b83280")
        beside.spines[["top", "left"]].set_visible(False)
    if validations:
        at, value = zip(*validations, strict=True)
        axes.plot(at, value, "o-", color=SAMPLES, ms=3, lw=1.2, label="validation")
    if test_nll is not None:
        axes.axhline(test_nll, color="#2f855a", lw=1.2, label=f"test {test_nll:.3f}")
    for (name, nll), style in zip(baselines.items(), ("--", ":"), strict=False):
        axes.axhline(nll, color=GREY, lw=1, ls=style, label=f"{name} {nll:.2f}")
    known = [*baselines.values(), *([] if test_nll is None else [test_nll])]
    nlls = course.nll[np.isfinite(course.nll)]
    if len(nlls):
        # The first few steps may be far above all that follows and would press it flat.
        known += [float(np.quantile(nlls, 0.98)), float(nlls.min())]
    if known:
        margin = 0.05 * (max(known) - min(known)) + 1e-9
        axes.set_ylim(min(known) - margin, max(known) + margin)
    axes.set_ylabel("negative log-likelihood,\nnats a row")
    axes.legend(fontsize=8, framealpha=0.6, edgecolor="none", ncols=2, loc="upper right")
