"""Steps from one to another, of metrics and of memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["EVERY_STEP", "StepRange"]


class StepRange(NamedTuple):
    """Steps from ``first`` to ``last``, both included; None: there is no bound on that side."""

    first: int | None
    last: int | None

    def has(self, step: int) -> bool:
        """Return whether a step is one of them."""
        return (self.first is None or self.first <= step) and (self.last is None or step <= self.last)

    def mask(self, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the steps (n,) are within."""
        within = np.ones(len(steps), bool)
        if self.first is not None:
            within &= steps >= self.first
        if self.last is not None:
            within &= steps <= self.last
        return within

    def within(self, steps: NDArray[np.int64]) -> slice:
        """Return where those are that are within, of steps (n,) in their order."""
        first = 0 if self.first is None else int(np.searchsorted(steps, self.first))
        return slice(first, len(steps) if self.last is None else int(np.searchsorted(steps, self.last, side="right")))


EVERY_STEP = StepRange(None, None)
