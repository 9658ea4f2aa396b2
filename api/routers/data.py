"""What the runs of a job have read."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.dependencies import JobId, Store
from symadj.api.problems import describe
from symadj.api.schemas.jobs import DataRead
from symadj.service.contract.states import JobState
from symadj.service.store import data, jobs
from symadj.service.store.tables import Job

router = APIRouter(prefix="/jobs/{job_id}/data", tags=["data"])


@router.get("", responses=describe(404))
def read_data(store: Store, job_id: JobId) -> DataRead:
    """Read what was read for a job, as soon as it was: rows, columns and their values, and what will be applied."""
    with store.read_session() as session:
        job = jobs.get(session, job_id)
        stored = data.of_job(session, job_id)
    if stored is None:
        return DataRead(attempt=None, read_at=None, summary=None, missing=_why_missing(job))
    return DataRead(attempt=stored.attempt, read_at=stored.read_at, summary=stored.summary, missing=None)


def _why_missing(job: Job) -> str:
    if job.metric_seq:
        return "the job was trained by a version of symadj that stored no summary of the data"
    if job.state in {JobState.QUEUED, JobState.STARTING}:
        return "the data have not been read yet"
    return "the job stopped before its data were read, or its version of symadj stored no summary of them"
