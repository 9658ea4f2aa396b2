"""Queries on the summaries of what runs have read."""

from __future__ import annotations

from sqlalchemy.orm import Session

from symadj.service.contract.records import DataRecord
from symadj.service.store.tables import DataSummaryRow, Job

__all__ = ["of_job", "put"]


def put(session: Session, job: Job, attempt: int, record: DataRecord) -> None:
    """Store what an attempt has read, unless a later one has said so already."""
    stored = session.get(DataSummaryRow, job.id)
    if stored is None or stored.attempt <= attempt:
        row = DataSummaryRow(job_id=job.id, attempt=attempt, read_at=record.time, summary=record.summary.stored())
        session.merge(row)


def of_job(session: Session, job_id: str) -> DataSummaryRow | None:
    """Return what was read for a job, None where nothing is known of it."""
    return session.get(DataSummaryRow, job_id)
