"""Attempts of a job and the checkpoints that they left."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.dependencies import JobId, SettingsOf, Store
from symadj.api.problems import describe
from symadj.api.schemas.jobs import AttemptList, AttemptRead, CheckpointList, CheckpointRead
from symadj.service.contract import layout
from symadj.service.store import checkpoints, jobs

router = APIRouter(prefix="/jobs/{job_id}", tags=["attempts"])


@router.get("/attempts", responses=describe(404))
def list_attempts(store: Store, job_id: JobId) -> AttemptList:
    """List the tries at a job in order: how each ended, why, and from where it went on."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        rows = jobs.attempts(session, job_id)
    return AttemptList(items=[AttemptRead.model_validate(row) for row in rows])


@router.get("/checkpoints", responses=describe(404))
def list_checkpoints(store: Store, settings: SettingsOf, job_id: JobId) -> CheckpointList:
    """List the checkpoints of a job that are kept, by step."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        rows = checkpoints.of_job(session, job_id)
    storage, folder = settings.resolved_storage(), layout.checkpoint_folder(job_id)
    return CheckpointList(
        items=[
            CheckpointRead(
                name=row.name,
                step=row.step,
                attempt=row.attempt,
                created_at=row.created_at,
                bytes=row.bytes,
                sha256=row.sha256,
                cause=row.cause,
                validation_nll=row.validation_nll,
                path=storage.name(f"{folder}/{row.name}"),
            )
            for row in rows
        ]
    )
