"""Queries on alerts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.spec import TRAINING, kind_of
from symadj.service.store.tables import Event, Job, JobAlerts

__all__ = ["active_of", "begin", "events_after", "find", "opened"]


def begin(session: Session, job: Job) -> None:
    """Let a training be looked at for alerts from now on, until it has ended."""
    if kind_of(job.spec) == TRAINING and session.get(JobAlerts, job.id) is None:
        session.add(JobAlerts(job_id=job.id, open=True, active=[], metric_seq=0, event_seq=0, kept={}, revision=0))


def opened(session: Session) -> Sequence[tuple[Job, JobAlerts]]:
    """Return the jobs that are to be looked at."""
    query = sa.select(Job, JobAlerts).join(JobAlerts, JobAlerts.job_id == Job.id).where(JobAlerts.open)
    return [(job, row) for job, row in session.execute(query.order_by(Job.id))]


def find(session: Session, job_id: str) -> JobAlerts | None:
    """Return how far a job was looked at, its row as it is now, or None."""
    return session.get(JobAlerts, job_id, populate_existing=True)


def active_of(session: Session, job_ids: Collection[str]) -> dict[str, list[str]]:
    """Return the rules that hold now, of the jobs that have any."""
    if not job_ids:
        return {}
    rows = session.scalars(sa.select(JobAlerts).where(JobAlerts.job_id.in_(job_ids)))
    return {row.job_id: row.active for row in rows if row.active}


def events_after(session: Session, job_id: str, names: Collection[str], *, after_seq: int) -> Sequence[Event]:
    """Return the events of these names with higher numbers, in order."""
    query = sa.select(Event).where(Event.job_id == job_id, Event.seq > after_seq, Event.name.in_(names))
    return session.scalars(query.order_by(Event.seq)).all()
