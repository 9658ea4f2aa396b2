"""The course of training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from symadj.workers.history import Course, History
from symadj.workers.plots.figures import DATA, GREY, PRETRAINING, SAMPLES, TEST, figure_of, plain, png, write
from symadj.workers.validation import Validation

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
    """Draw loss, validation NLL, field evaluations and peak memory along the steps; return a PNG.

    Args:
        history: of the training.
        validations: of that training, oldest first.
        title: above the picture.
        test_nll: nats a row, or None without a test.
        baselines: test NLL of other models, by their names.
    """
    figure = figure_of(8.0, 7.2)
    loss_axes, nfe_axes, memory_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.2, 1.2))
    course = history.course()
    _draw_loss(loss_axes, course, validations, test_nll, baselines)
    write(figure.suptitle, title, fontsize=11, x=0.01, ha="left")

    nfe_axes.plot(course.steps, course.nfe_forward, label="forward", color=DATA, lw=1)
    nfe_axes.plot(course.steps, course.nfe_backward, label="backward", color=SAMPLES, lw=1, ls="--")
    nfe_axes.set_ylabel("nfe a step")
    _from_zero(nfe_axes, np.concatenate([course.nfe_forward, course.nfe_backward]))
    nfe_axes.legend(fontsize=8, framealpha=0.6, edgecolor="none", ncols=2, loc="lower left")

    # The first step also pays for what libraries set up once, and would hide the others.
    shown = slice(1 if len(course.steps) > 1 else 0, None)
    memory = course.memory_bytes[shown] / 2**20
    # Not every step of pre-training is measured.
    measured = np.isfinite(memory)
    memory_axes.plot(course.steps[shown][measured], memory[measured], color=GREY, lw=1)
    _from_zero(memory_axes, memory)
    memory_axes.set_ylabel("memory peak\nabove idle, MiB")
    memory_axes.set_xlabel("step")
    for axes in (loss_axes, nfe_axes, memory_axes):
        plain(axes)
    return png(figure)


def _from_zero(axes: Axes, values: NDArray[np.float64]) -> None:
    known = values[np.isfinite(values)]
    axes.set_ylim(0, 1.08 * known.max() if len(known) and known.max() > 0 else 1)


def _draw_loss(
    axes: Axes,
    course: Course,
    validations: Sequence[Validation],
    test_nll: float | None,
    baselines: dict[str, float],
) -> None:
    lines = axes.plot(course.steps, course.nll, color=DATA, lw=0.8, alpha=0.8, label="training")
    if validations:
        at, value = zip(*validations, strict=True)
        lines += axes.plot(at, value, "o-", color=SAMPLES, ms=3, lw=1.2, label="validation")
    if test_nll is not None:
        lines.append(axes.axhline(test_nll, color=TEST, lw=1.2, ls="-.", label=f"test {test_nll:.3f}"))
    for (name, nll), style in zip(baselines.items(), ("--", ":", (0, (6, 2, 1, 2))), strict=False):
        lines.append(axes.axhline(nll, color=GREY, lw=1, ls=style, label=f"{name} {nll:.2f}"))
    matched = np.isfinite(course.flow_matching_loss)
    if matched.any():
        # A different quantity, on its own scale.
        beside = axes.twinx()
        lines += beside.plot(
            course.steps[matched],
            course.flow_matching_loss[matched],
            color=PRETRAINING,
            lw=0.8,
            alpha=0.6,
            label="flow matching (right axis)",
        )
        beside.set_ylabel("flow-matching loss", color=PRETRAINING, fontsize=8)
        beside.tick_params(labelsize=7, colors=PRETRAINING)
        beside.spines[["top", "left"]].set_visible(False)
    limits = _limits(course.nll, [v.nll for v in validations], [test_nll, *baselines.values()])
    if limits is not None:
        axes.set_ylim(*limits)
    axes.set_ylabel("negative log-likelihood\nafter the transforms, nats a row")
    # Above the axes, where it hides nothing.
    axes.legend(handles=lines, fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)


def _limits(
    nll: NDArray[np.float64], validations: Sequence[float], levels: Iterable[float | None]
) -> tuple[float, float] | None:
    """Return the part of the axis to show: all but the first few steps, which may lie far above the others.

    A level far above (a Gaussian's, say) would flatten the curves in the same way; its value is in the legend.
    """
    shown: list[float] = []
    for series in (nll, np.asarray(validations, np.float64)):
        known = series[np.isfinite(series)]
        if len(known):
            shown += [float(known.min()), float(np.quantile(known, 0.95))]
    known_levels = [level for level in levels if level is not None and np.isfinite(level)]
    shown += known_levels if not shown else [level for level in known_levels if level < 2 * max(shown) - min(shown)]
    if not shown:
        return None
    margin = 0.05 * (max(shown) - min(shown)) + 1e-9
    return min(shown) - margin, max(shown) + margin
