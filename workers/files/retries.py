"""Files that a run can't do without, and a storage that is full, or does not answer, for a while."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

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
        return self._retry(write, lambda error: error.errno in FULL or isinstance(error, StorageUnreachableError))

    def while_unreachable(self, ask: Callable[[], T]) -> T:
        """Return ``ask()``, tried again while the bucket does not answer.

        Raises:
            StopRequestedError: the run must stop.
            OSError: there was no answer for all that time, or something else is wrong with the storage.
        """
        return self._retry(ask, lambda error: isinstance(error, StorageUnreachableError))

    def _retry(self, work: Callable[[], T], passes: Callable[[OSError], bool]) -> T:
        until = time.monotonic() + self._patience
        reported = False
        while True:
            try:
                return work()
            except OSError as error:
                if not passes(error) or time.monotonic() >= until or self._outbox.superseded:
                    raise
                if not reported:
                    away = isinstance(error, StorageUnreachableError)
                    name = "storage_unreachable" if away else "storage_full"
                    what = "until the storage answers" if away else "for room on the storage"
                    message = f"The run waits {what}: {error}"
                    self._outbox.put(EventRecord(name=name, message=message[:10_000]))
                reported = True
            self._outbox.raise_if_stopped()
            time.sleep(_TRY_EVERY_S)
