"""Queries on checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.layout import CheckpointName
from symadj.service.contract.records import CheckpointRecord
from symadj.service.store.tables import Checkpoint, Job

__all__ = ["add", "newest", "of_job"]


def add(session: Session, job: Job, record: CheckpointRecord) -> None:
    """Register a complete checkpoint, and forget those that were removed to make room for it.

    A later attempt than the one that wrote it reports it again when it goes on from it.
    """
    name = CheckpointName.parse(record.name)
    assert name is not None  # the record's own check
    session.merge(
        Checkpoint(
            job_id=job.id,
            name=record.name,
            step=record.step,
            attempt=name.attempt,
            created_at=record.time,
            bytes=record.bytes,
            sha256=record.sha256,
            cause=record.cause.value,
            # SQL has no NaN that both databases compare alike; a checkpoint after a NaN is not the best one.
            validation_nll=_finite(record.validation_nll),
        )
    )
    session.flush()
    if record.removed:
        session.execute(
            sa.delete(Checkpoint)
            .where(Checkpoint.job_id == job.id, Checkpoint.name.in_(record.removed))
            .execution_options(synchronize_session=False)
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or value in (float("inf"), float("-inf")) else value


def of_job(session: Session, job_id: str) -> Sequence[Checkpoint]:
    """Return the checkpoints of a job by step, the newest of a step last."""
    return session.scalars(
        sa.select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step, Checkpoint.attempt)
    ).all()


def newest(session: Session, job_id: str, *, step: int | None = None) -> Checkpoint | None:
    """Return the checkpoint of the highest step, or the newest one of ``step``; None if there is none."""
    query = sa.select(Checkpoint).where(Checkpoint.job_id == job_id)
    if step is not None:
        query = query.where(Checkpoint.step == step)
    return session.scalars(query.order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc()).limit(1)).one_or_none()
