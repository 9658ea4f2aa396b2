"""Files that a run can't do without, and a storage that is full, or does not answer, for a while."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from symadj.service.contract.records import EventRecord
from symadj.service.contract.storage import StorageUnreachable
from symadj.workers.delivery.sender import Outbox

__all__ = ["FULL", "retry_while_full", "retry_while_unreachable"]

T = TypeVar("T")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TRY_EVERY_S = 1.0


def retry_while_full(outbox: Outbox, write: Callable[[], T]) -> T:
    """Return ``write()``, tried again for as long as the disk is full, or the owner's share of it used up, or the
    bucket does not answer.

    It is told once, as an event. The other ranks wait in a collective meanwhile, so the limit,
    ``SYMADJ_STORAGE_PATIENCE_S`` (default 1200), has to be shorter than theirs.

    Raises:
        StopAsked: the run is to stop.
        OSError: there was no room for all that time, or something else is wrong with the storage.
    """
    return _once(outbox, write, lambda error: error.errno in FULL or isinstance(error, StorageUnreachable))


def retry_while_unreachable(outbox: Outbox, ask: Callable[[], T]) -> T:
    """Return ``ask()``, tried again for as long as the bucket does not answer; as in ``retry_while_full``.

    Raises:
        StopAsked: the run is to stop.
        OSError: there was no answer for all that time, or something else is wrong with the storage.
    """
    return _once(outbox, ask, lambda error: isinstance(error, StorageUnreachable))


def _once(outbox: Outbox, work: Callable[[], T], passes: Callable[[OSError], bool]) -> T:
    until = time.monotonic() + float(os.environ.get("SYMADJ_STORAGE_PATIENCE_S", "1200"))
    told = False
    while True:
        try:
            return work()
        except OSError as error:
            if not passes(error) or time.monotonic() >= until or outbox.superseded:
                raise
            if not told:
                away = isinstance(error, StorageUnreachable)
                name = "storage_unreachable" if away else "storage_full"
                what = "until the storage answers" if away else "for room on the storage"
                message = f"The run waits {what}: {error}"
                outbox.put(EventRecord(time=datetime.now(UTC), name=name, message=message[:10_000]))
            told = True
        outbox.raise_if_stopped()
        time.sleep(_TRY_EVERY_S)
