"""Requests under one Idempotency-Key that come at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import IntegrityError

__all__ = ["submitted_once"]

Result = TypeVar("Result")


def submitted_once(submit: Callable[[], Result]) -> Result:
    """Return what ``submit`` returns, in a transaction of its own; tried again if another request was first.

    What the other made exists by then, and is found under the key.
    """
    try:
        return submit()
    except IntegrityError:
        return submit()
