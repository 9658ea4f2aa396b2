"""Validations during training, and the decisions that rest on them alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Validation", "stalls"]


class Validation(NamedTuple):
    """The mean NLL of the validation rows after ``step`` steps, nats a row."""

    step: int
    nll: float


def stalls(nlls: Iterable[float], patience: int, min_improvement: float) -> int:
    """Return how often ``patience`` values in a row brought no improvement; counting restarts each time.

    A value improves on the best one so far when it is lower by more than ``min_improvement``. A NaN never does.
    """
    best, waited, count = math.inf, 0, 0
    for nll in nlls:
        if nll < best - min_improvement:
            best, waited = nll, 0
            continue
        waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count
