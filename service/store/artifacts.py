"""Queries on artifacts."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.records import ArtifactRecord
from symadj.service.errors import NotFoundError
from symadj.service.store.tables import Artifact, Job

__all__ = ["add", "get", "of_job"]


def add(session: Session, job: Job, attempt: int, record: ArtifactRecord) -> None:
    """Register a finished file; it takes the place of one of the same name, but not of a later attempt's."""
    known = session.get(Artifact, (job.id, record.name))
    if known is not None and known.attempt > attempt:
        return
    session.merge(
        Artifact(
            job_id=job.id,
            name=record.name,
            media_type=record.media_type,
            bytes=record.bytes,
            sha256=record.sha256,
            attempt=attempt,
            created_at=record.time,
        )
    )


def of_job(session: Session, job_id: str) -> Sequence[Artifact]:
    """Return the artifacts of a job by name."""
    return session.scalars(sa.select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)).all()


def get(session: Session, job_id: str, name: str) -> Artifact:
    """Return one artifact.

    Raises:
        NotFoundError: the job has no file of this name.
    """
    artifact = session.get(Artifact, (job_id, name))
    if artifact is None:
        names = ", ".join(item.name for item in of_job(session, job_id)) or "none yet"
        raise NotFoundError(f"job {job_id!r} has no artifact {name!r}; it has: {names}")
    return artifact
