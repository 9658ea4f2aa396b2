"""A job that was looked at a moment ago, held to decide what becomes of its attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from symadj.service.contract.states import ReasonCode
from symadj.service.lifecycle import attempts
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from symadj.service.store.tables import Attempt, Job

__all__ = ["ACTOR", "Settler", "Settling"]

# The actor of the events that a dispatcher writes.
ACTOR = "dispatcher"


@dataclass(frozen=True)
class Settling:
    """A job whose newest attempt is still the one that was looked at; its row is locked until the block ends."""

    session: Session
    job: Job
    attempt: Attempt
    retry_seconds: float

    def note_submitted(self) -> None:
        """Record that Ray has the attempt; the lease of its claim ends."""
        self.attempt.submitted_at = datetime.now(UTC)
        self.attempt.lease_token = self.attempt.lease_expires_at = None

    def lose(self, reason: ReasonCode, message: str) -> None:
        """End the attempt, whose run can't report any more; see ``lifecycle.attempts.lose``."""
        attempts.lose(self.session, self.job, reason, message, actor=ACTOR, retry_seconds=self.retry_seconds)

    def put_back(
        self, message: str, *, pause_seconds: float = 0.0, reason: ReasonCode = ReasonCode.CLUSTER_LOST
    ) -> None:
        """Return the job to the queue; see ``lifecycle.attempts.put_back``."""
        attempts.put_back(
            self.session, self.job, actor=ACTOR, message=message, pause_seconds=pause_seconds, reason=reason
        )


class Settler:
    """Holds jobs, one at a time, for a decision about their attempts."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings

    @contextmanager
    def settle(self, job: Job, *, lease_token: str | None = None) -> Iterator[Settling | None]:
        """Give the job as it is now; None where another attempt has taken the place of the one in ``job``.

        With ``lease_token`` also None where that lease is over: the claim was settled by another dispatcher.
        """
        with self._database.session() as session:
            current = jobs.lock(session, job.id)
            attempt = jobs.attempt(session, job.id, job.attempt)
            same = current.attempt == job.attempt and lease_token in (None, attempt.lease_token)
            yield Settling(session, current, attempt, self._settings.retry_seconds) if same else None
