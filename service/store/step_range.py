"""Steps from one to another, of metrics and of memory."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

__all__ = ["EVERY_STEP", "StepRange"]


class StepRange(NamedTuple):
    """Steps from ``first`` to ``last``, both included; None: there is no bound on that side."""

    first: int | None
    last: int | None

    def conditions(self, step: InstrumentedAttribute[int]) -> list[sa.ColumnElement[bool]]:
        """Return what a query asks of its column of steps."""
        found = []
        if self.first is not None:
            found.append(step >= self.first)
        if self.last is not None:
            found.append(step <= self.last)
        return found


EVERY_STEP = StepRange(None, None)
