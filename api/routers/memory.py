"""Memory telemetry of a job, by rank and phase."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Response

from symadj.api.accept import best_of
from symadj.api.csv_answers import csv_answer
from symadj.api.dependencies import AfterSeq, Costly, JobId, Limit, Steps, Store, SummedUp
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import MemoryPhase, MemoryPointRead, MemoryPoints, MemorySummary
from symadj.service.contract.flow_question import MediaType
from symadj.service.contract.records import Phase
from symadj.service.contract.spec import TRAINING, kind_of
from symadj.service.store import Database, jobs, memory, retention
from symadj.service.store.export import MEMORY_COLUMNS, memory_rows

router = APIRouter(prefix="/jobs/{job_id}/memory", tags=["memory"])


@router.get("", response_model=MemorySummary, responses=describe(404))
async def summarise_memory(store: Store, costly: Costly, summaries: SummedUp, job_id: JobId, steps: Steps) -> Response:
    """Read the highest peaks of every rank in every phase, over all steps or those asked for.

    Host peaks are the kernel's high-water mark of the worker process's resident memory within the phase, device
    peaks the allocator's. "Above idle" is what the phase needed beyond what the process held when the step began.
    """

    def read() -> bytes:
        with store.read_session() as session:
            job = jobs.get(session, job_id)
            rows = summaries.of_job(session, job_id, steps)
        summary = MemorySummary(
            job_id=job_id,
            gradient=job.spec["gradient"]["kind"] if kind_of(job.spec) == TRAINING else None,
            ranks=len({row["rank"] for row in rows}),
            phases=[MemoryPhase.model_validate(dict(row)) for row in rows],
            thinned=retention.is_thinned(job),
        )
        return summary.model_dump_json().encode()

    key = ("memory", job_id, await run_sync(_state, store, job_id), steps)
    return Response(await costly.read(key, read), media_type="application/json")


def _state(store: Database, job_id: str) -> tuple[int, bool]:
    """Return the number of the newest record, and whether records were removed."""
    with store.read_session() as session:
        job = jobs.get(session, job_id)
        return job.memory_seq, retention.is_thinned(job)


@router.get(
    "/steps",
    response_model=MemoryPoints,
    responses={200: {"content": {MediaType.CSV: {"schema": {"type": "string"}}}}, **describe(404, 406)},
)
async def list_memory_steps(
    store: Store,
    costly: Costly,
    job_id: JobId,
    rank: Annotated[int | None, Query(ge=0, lt=2**31, description="Of one worker; default: of all.")] = None,
    phase: Annotated[Phase | None, Query(description="Of a step; default: all.")] = None,
    after_seq: AfterSeq = 0,
    limit: Limit = 1000,
    accept: Annotated[
        str, Header(max_length=1000, description="application/json, or text/csv: all records, whatever `limit` is.")
    ] = "*/*",
) -> Response:
    """List the records behind the summary: one for every step, rank and phase."""
    if best_of(accept, (MediaType.JSON, MediaType.CSV)) == MediaType.CSV:
        await run_sync(_state, store, job_id)  # 404 where there is no such job
        return csv_answer(MEMORY_COLUMNS, memory_rows(store, job_id, rank=rank, phase=phase, after_seq=after_seq))

    def read() -> bytes:
        with store.read_session() as session:
            job = jobs.get(session, job_id)
            rows = memory.points(session, job_id, rank=rank, phase=phase, after_seq=after_seq, limit=limit)
        points = MemoryPoints(
            items=[MemoryPointRead.model_validate(row) for row in rows],
            next_after_seq=rows[-1].seq if rows else after_seq,
            thinned=retention.is_thinned(job),
        )
        return points.model_dump_json().encode()

    # To find few of one rank or phase, all records after `after_seq` may have to be looked through.
    key = ("memory steps", job_id, rank, phase, after_seq, limit)
    return Response(await costly.read(key, read, keep=False), media_type="application/json")
