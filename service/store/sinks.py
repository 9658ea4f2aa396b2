"""Queries on how far sinks were fed."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.states import JobState
from symadj.service.store.tables import Job, SinkPosition

__all__ = ["put", "unfinished"]


def unfinished(session: Session, sink: str) -> Sequence[tuple[Job, SinkPosition]]:
    """Return the jobs that have begun and of whose end a sink does not know, the oldest first, and how far it is."""
    of_sink = sa.and_(SinkPosition.job_id == Job.id, SinkPosition.sink == sink)
    query = (
        sa.select(Job, SinkPosition)
        .outerjoin(SinkPosition, of_sink)
        .where(Job.state != JobState.QUEUED, sa.or_(SinkPosition.ended.is_(None), sa.not_(SinkPosition.ended)))
        .order_by(Job.created_at, Job.id)
    )
    return [
        (job, position or SinkPosition(sink=sink, job_id=job.id, metric_seq=0, ended=False))
        for job, position in session.execute(query)
    ]


def put(session: Session, position: SinkPosition) -> None:
    """Store how far a sink was fed of a job, if the job is still there."""
    if session.get(Job, position.job_id) is not None:
        session.merge(position)
