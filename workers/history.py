"""The course of training, kept small enough to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Course", "History"]

_MOST_POINTS = 2000


@dataclass(frozen=True, eq=False)
class Course:
    """Means over equally long stretches of training, each array [n] float64.

    Attributes:
        steps: the middle of each stretch.
        nll: of the batches, nats a row; NaN in pre-training.
        flow_matching_loss: NaN but in pre-training.
        nfe_forward, nfe_backward: uses of the field a step; NaN in pre-training.
        memory_bytes: peak of a step above what was held when it began, of the steps that were measured; NaN where
            none was.
    """

    steps: NDArray[np.float64]
    nll: NDArray[np.float64]
    flow_matching_loss: NDArray[np.float64]
    nfe_forward: NDArray[np.float64]
    nfe_backward: NDArray[np.float64]
    memory_bytes: NDArray[np.float64]


class History:
    """Collects what the training curve shows.

    A long run has more steps than a picture has room for, or memory should hold: neighbours are averaged whenever
    there are twice ``_MOST_POINTS`` of them.
    """

    def __init__(self) -> None:
        self._points: list[NDArray[np.float64]] = []
        self._width = 1
        self._open: list[tuple[float, ...]] = []

    def add(self, metrics: Mapping[str, float], memory_bytes: int | None) -> None:
        """Add a step.

        Args:
            metrics: of the step, by their names.
            memory_bytes: its peak above what was held when it began; None where it is not known.
        """
        figures = [metrics.get(name, math.nan) for name in ("flow_matching_loss", "nfe_forward", "nfe_backward")]
        nll = metrics.get("nll", metrics.get("loss", math.nan))  # the same where nothing is added to it
        self._open.append((nll, *figures, math.nan if memory_bytes is None else float(memory_bytes)))
        if len(self._open) == self._width:
            self._points.append(_mean_of_known(np.asarray(self._open), axis=0))
            self._open.clear()
        if len(self._points) == 2 * _MOST_POINTS:
            pairs = np.reshape(self._points, (_MOST_POINTS, 2, -1))
            self._points = list(_mean_of_known(pairs, axis=1))
            self._width *= 2

    def state_dict(self) -> dict[str, Any]:
        """Return everything collected so far, as numbers and lists."""
        points = [point.tolist() for point in self._points]
        return {"points": points, "width": self._width, "open": [list(step) for step in self._open]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._points = [np.asarray(point, np.float64) for point in state["points"]]
        self._width, self._open = state["width"], [tuple(step) for step in state["open"]]

    def course(self) -> Course:
        """Return what was collected; the last steps may be missing where stretches are longer than one."""
        points = np.asarray(self._points, np.float64).reshape(-1, 5)
        middles = np.arange(len(points), dtype=np.float64) * self._width + (self._width + 1) / 2
        return Course(middles, *points.T)


def _mean_of_known(figures: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the mean over the finite ones, NaN where none is: of a stretch of steps not every figure is known."""
    known = np.isfinite(figures)
    counts = known.sum(axis)
    sums = np.where(known, figures, 0.0).sum(axis)
    means = np.full(sums.shape, math.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
