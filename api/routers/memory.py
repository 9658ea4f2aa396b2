"""Memory telemetry of a job, by rank and phase."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from symadj.api.dependencies import AfterSeq, JobId, Limit, Store
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import MemoryPhase, MemoryPointRead, MemoryPoints, MemorySummary
from symadj.service.contract.records import Phase
from symadj.service.store import jobs, memory

router = APIRouter(prefix="/jobs/{job_id}/memory", tags=["memory"])

StepBound = Annotated[int | None, Query(ge=1, lt=2**63)]


@router.get("", responses=describe(404))
def summarise_memory(
    store: Store, job_id: JobId, first_step: StepBound = None, last_step: StepBound = None
) -> MemorySummary:
    """Read the highest peaks of every rank in every phase, over all steps or those asked for.

    Host peaks are the kernel's high-water mark of the worker process's resident memory within the phase, device
    peaks the allocator's. "Above idle" is what the phase needed beyond what the process held when the step began.
    """
    with store.read_session() as session:
        job = jobs.get(session, job_id)
        rows = memory.summary(session, job_id, first_step=first_step, last_step=last_step)
    return MemorySummary(
        job_id=job_id,
        gradient=job.spec["gradient"]["kind"],
        ranks=len({row["rank"] for row in rows}),
        phases=[MemoryPhase.model_validate(dict(row)) for row in rows],
    )


@router.get("/steps", responses=describe(404))
def list_memory_steps(
    store: Store,
    job_id: JobId,
    rank: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    phase: Phase | None = None,
    after_seq: AfterSeq = 0,
    limit: Limit = 1000,
) -> MemoryPoints:
    """List the records behind the summary: one for every step, rank and phase."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        rows = memory.points(session, job_id, rank=rank, phase=phase, after_seq=after_seq, limit=limit)
    return MemoryPoints(
        items=[MemoryPointRead.model_validate(row) for row in rows],
        next_after_seq=rows[-1].seq if rows else after_seq,
    )
