"""Events of a job."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.dependencies import AfterSeq, JobId, Limit, Store
from symadj.api.problems import describe
from symadj.api.schemas.jobs import EventList, EventRead
from symadj.service.store import events, jobs

router = APIRouter(prefix="/jobs/{job_id}/events", tags=["events"])


@router.get("", responses=describe(404))
def list_events(store: Store, job_id: JobId, after_seq: AfterSeq = 0, limit: Limit = 200) -> EventList:
    """List what happened to a job, in order."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        rows = events.after(session, job_id, after_seq=after_seq, limit=limit)
    return EventList(
        items=[EventRead.model_validate(row) for row in rows],
        next_after_seq=rows[-1].seq if rows else after_seq,
    )
