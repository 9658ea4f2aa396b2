"""Files that a run can't do without, and a storage that is full, or does not answer, for a while."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

import tenacity

from symadj.service.contract.records import EventRecord
from symadj.service.contract.storage import StorageUnreachableError
from symadj.workers.delivery.outbox import Outbox

__all__ = ["FULL", "Retries"]

T = TypeVar("T")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TRY_EVERY_S = 1.0


class Retries:
    """Tries again what a storage did not do, and reports once, as an event, that the run waits.

    The other ranks wait in a collective meanwhile, so the limit must be shorter than theirs.

    Args:
        outbox: takes the event, and knows whether the run must stop.
        patience_seconds: for which one thing is tried again.
    """

    def __init__(self, outbox: Outbox, patience_seconds: float) -> None:
        self._outbox, self._patience = outbox, patience_seconds

    def while_full(self, write: Callable[[], T]) -> T:
        """Return ``write()``, tried again while the disk is full, or the owner's share of it used up, or the bucket
        does not answer.

        Raises:
            StopRequestedError: the run must stop.
            OSError: there was no room for all that time, or something else is wrong with the storage.
        """
        return self._retry(write, lambda error: _is_full(error) or _is_unreachable(error))

    def while_unreachable(self, ask: Callable[[], T]) -> T:
        """Return ``ask()``, tried again while the bucket does not answer.

        Raises:
            StopRequestedError: the run must stop.
            OSError: there was no answer for all that time, or something else is wrong with the storage.
        """
        return self._retry(ask, _is_unreachable)

    def _retry(self, work: Callable[[], T], passes: Callable[[BaseException], bool]) -> T:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: passes(error) and not self._outbox.superseded),
            stop=tenacity.stop_after_delay(self._patience),
            wait=tenacity.wait_fixed(_TRY_EVERY_S),
            before_sleep=self._before_sleep,
            reraise=True,
        )(work)

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = state.outcome.exception()
            name, what = "storage_full", "for room on the storage"
            if isinstance(error, StorageUnreachableError):
                name, what = "storage_unreachable", "until the storage answers"
            message = f"The run waits {what}: {error}"
            self._outbox.put(EventRecord(name=name, message=message[:10_000]))
        self._outbox.raise_if_stopped()


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def _is_unreachable(error: BaseException) -> bool:
    return isinstance(error, StorageUnreachableError)
