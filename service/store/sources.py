"""Queries on the sources of records: how far each is stored, and when it was last heard of."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.store.tables import IngestSource

__all__ = ["get", "of_attempts"]


def get(session: Session, job_id: str, attempt: int, source: str) -> IngestSource:
    """Return the row of a source, a new one if it was never heard of."""
    position = session.get(IngestSource, (job_id, attempt, source))
    if position is None:
        position = IngestSource(job_id=job_id, attempt=attempt, source=source, next_seq=1, closed=False)
        session.add(position)
    return position


def of_attempts(session: Session, attempts: Collection[tuple[str, int]]) -> Sequence[IngestSource]:
    """Return the sources of all these attempts (job's id, number)."""
    wanted = set(attempts)
    if not wanted:
        return []
    of_jobs = sa.select(IngestSource).where(IngestSource.job_id.in_({job_id for job_id, _ in wanted}))
    return [row for row in session.scalars(of_jobs) if (row.job_id, row.attempt) in wanted]
