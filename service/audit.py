"""The audit log: who asked for what, and what was answered.

Nobody waits for it: entries are noted in memory, and a thread with a connection of its own stores them, a few hundred
in one short transaction.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from symadj.service.store import Database, audit
from symadj.service.store.tables import AuditEntry

__all__ = ["AuditLog"]

log = logging.getLogger("symadj.audit")

# For so long entries gather before they are stored together; of one transaction; while the store is away.
GATHER_SECONDS = 0.2
MOST_AT_ONCE = 500
MOST_WAITING = 100_000
RETRY_SECONDS = 2.0
# Between two looks for entries that are too old.
TIDY_SECONDS = 3600.0


class AuditLog:
    """Stores what is noted. Call :meth:`close` at the end.

    Args:
        store_url: of the store.
        keep_days: after which an entry is removed.
    """

    def __init__(self, store_url: str, *, keep_days: float) -> None:
        self._database = Database(store_url, connections=1)
        self._keep = timedelta(days=keep_days)
        self._waiting: deque[AuditEntry] = deque()
        self._changed = threading.Condition()
        self._noted = self._settled = 0
        self._hurry = self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to store, after an end too; the tables are there."""
        self._closing = False
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
            self._thread.start()

    def note(self, entry: AuditEntry) -> None:
        """Take an entry, without waiting for anything."""
        with self._changed:
            self._waiting.append(entry)
            self._noted += 1
            if len(self._waiting) > MOST_WAITING:
                lost = self._waiting.popleft()
                self._settled += 1
                log.error("the store takes no audit entries, this one is lost: %s", _in_words(lost))
            self._changed.notify_all()

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until what was noted so far is stored; return whether it is, after so many seconds."""
        with self._changed:
            wanted = self._noted
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= wanted, seconds)

    def close(self) -> None:
        """Store what is left, if the store takes it, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for entry in self._waiting:
            log.error("the store took no audit entries, this one is lost: %s", _in_words(entry))
        self._database.close()

    def _run(self) -> None:
        next_tidying = time.monotonic()
        failed = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, TIDY_SECONDS)
                if not self._waiting and self._closing:
                    return
                self._changed.wait_for(lambda: self._hurry or self._closing, GATHER_SECONDS)
                self._hurry = False
                batch = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
            try:
                with self._database.session() as session:
                    for entry in batch:
                        # What failed may have been stored for all that: the answer alone was lost.
                        session.merge(entry) if failed else session.add(entry)
                failed = False
                if time.monotonic() >= next_tidying:
                    next_tidying = time.monotonic() + TIDY_SECONDS
                    self._remove_old()
            except OperationalError as error:
                log.warning("audit entries wait, the store does not take them: %s", error)
                failed = True
                with self._changed:
                    # These objects are of a session that failed: new ones take their places.
                    self._waiting.extendleft(_copy(entry) for entry in reversed(batch))
                    if self._changed.wait_for(lambda: self._closing, RETRY_SECONDS):
                        return
                continue
            except SQLAlchemyError:
                log.exception("the store refuses audit entries, these are lost: %s", "; ".join(map(_in_words, batch)))
            with self._changed:
                self._settled += len(batch)
                self._changed.notify_all()

    def _remove_old(self) -> None:
        """Remove what is too old, a little at a time: others write in between."""
        removed = MOST_AT_ONCE
        while removed == MOST_AT_ONCE:
            with self._database.session() as session:
                removed = audit.delete_before(session, datetime.now(UTC) - self._keep, most=MOST_AT_ONCE)


def _values(entry: AuditEntry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in AuditEntry.__table__.columns.keys()}  # noqa: SIM118


def _copy(entry: AuditEntry) -> AuditEntry:
    return AuditEntry(**_values(entry))


def _in_words(entry: AuditEntry) -> str:
    return " ".join(f"{name}={value}" for name, value in _values(entry).items() if value is not None)
