"""Files that a run can't do without, and a storage that is full for a while."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from service.records import EventRecord
from workers.telemetry import Outbox

__all__ = ["FULL", "once_there_is_room"]

T = TypeVar("T")

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TRY_EVERY_S = 1.0


def once_there_is_room(outbox: Outbox, write: Callable[[], T]) -> T:
    """Return ``write()``, tried again for as long as the disk is full, or the owner's share of it used up.

    It is told once, as an event. The other ranks wait in a collective meanwhile, so the limit,
    ``SYMADJ_STORAGE_PATIENCE_S`` (default 1200), has to be shorter than theirs.

    Raises:
        StopAsked: the run is to stop.
        OSError: there was no room for all that time, or something else is wrong with the storage.
    """
    until = time.monotonic() + float(os.environ.get("SYMADJ_STORAGE_PATIENCE_S", "1200"))
    told = False
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL or time.monotonic() >= until or outbox.superseded:
                raise
            if not told:
                message = f"The run waits for room on the storage: {error}"
                outbox.put(EventRecord(time=datetime.now(UTC), name="storage_full", message=message[:10_000]))
            told = True
        outbox.heed()
        time.sleep(_TRY_EVERY_S)
