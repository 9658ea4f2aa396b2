"""Queries on events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.store import webhooks
from symadj.service.store.tables import Event, Job

__all__ = ["after", "append", "newest_of"]


def append(
    session: Session,
    job: Job,
    *,
    actor: str,
    name: str,
    message: str,
    data: dict[str, Any] | None = None,
    time: datetime | None = None,
    attempt: int | None = None,
) -> None:
    """Write an event of a job, and whom it is to be told, under the job's next event number.

    It is of the job's newest attempt unless another is named.
    """
    event = Event(
        job_id=job.id,
        seq=_next_number(session, job),
        time=time or datetime.now(UTC),
        attempt=job.attempt if attempt is None else attempt,
        actor=actor,
        name=name,
        message=message,
        data=data or {},
    )
    session.add(event)
    webhooks.enqueue(session, job, event)


def _next_number(session: Session, job: Job) -> int:
    """Return the number of a job's next event: the database gives it out, but that of a job it does not have yet."""
    if sa.inspect(job).pending:
        job.event_seq = 1
        session.flush()  # the job's row comes before those that name it
        return 1
    return session.execute(
        sa.update(Job)
        .where(Job.id == job.id)
        .values(event_seq=Job.event_seq + 1)
        .returning(Job.event_seq)
        .execution_options(synchronize_session=False)
    ).scalar_one()


def after(session: Session, job_id: str, *, after_seq: int, limit: int) -> Sequence[Event]:
    """Return the events of a job with numbers above ``after_seq``, in order."""
    return session.scalars(
        sa.select(Event).where(Event.job_id == job_id, Event.seq > after_seq).order_by(Event.seq).limit(limit)
    ).all()


def newest_of(session: Session, job_ids: Collection[str], name: str) -> dict[str, Event]:
    """Return the newest event with this name of each of the jobs that have one, by job."""
    if not job_ids:
        return {}
    rows = session.scalars(sa.select(Event).where(Event.job_id.in_(job_ids), Event.name == name).order_by(Event.seq))
    return {row.job_id: row for row in rows}
