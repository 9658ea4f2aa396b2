"""One spec trained by several gradients, and the table of what came of each."""

from __future__ import annotations

import math
import statistics
from typing import Annotated, get_args

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Path, Request, Response
from sqlalchemy.orm import Session

from symadj.api.bodies import json_body
from symadj.api.dependencies import Asker, Costly, IdempotencyKey, Owner, SettingsOf, Store, SummedUp, require_json
from symadj.api.problems import describe
from symadj.api.same_keys import submitted_once
from symadj.api.schemas.comparisons import ComparedGradient, ComparisonRead
from symadj.service.contract.records import StepPhase
from symadj.service.contract.result import JobResult
from symadj.service.contract.spec.comparison import ComparisonRequest
from symadj.service.lifecycle import comparisons, parents
from symadj.service.store import Database, metrics
from symadj.service.store.memory_summaries import MemorySummaries
from symadj.service.store.tables import Job

router = APIRouter(prefix="/comparisons", tags=["comparisons"])

# Steps of which medians are taken.
_NEWEST = 1000

ComparisonId = Annotated[
    str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="Id of a comparison, `cmp-...`.")
]


async def _may_submit(_owner: Owner, _json: Annotated[None, Depends(require_json)]) -> None:
    """Let those through who may submit jobs, and say that they send JSON."""


_Body = Annotated[
    ComparisonRequest, json_body(ComparisonRequest, after=_may_submit, most_bytes=2**20, most_values=50_000)
]


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": ComparisonRead, "description": "Known by its key"},
        **describe(400, 403, 413, 415, 429),
    },
)
def compare_gradients(
    body: _Body,
    store: Store,
    settings: SettingsOf,
    summaries: SummedUp,
    owner: Owner,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ComparisonRead:
    """Put a job for each gradient into the queue: one spec, the same seeds and steps. They share the label
    `comparison`, by which they can be listed; each is cancelled and deleted by itself."""

    storage = settings.resolved_storage()
    parents.reach(body.spec, storage)

    def submit() -> tuple[str, bool]:
        with store.session() as session:
            return comparisons.submit(
                session,
                body,
                owner=owner,
                storage=storage,
                idempotency_key=idempotency_key,
                max_queued=settings.max_queued_per_owner,
                max_bytes=settings.owner_disk_bytes,
            )

    comparison, created = submitted_once(submit)
    if not created:
        response.status_code = 200
    response.headers["Location"] = str(request.app.url_path_for("read_comparison", comparison_id=comparison))
    read = _read(store, comparison, owner, summaries)
    if created and (planned_later := request.app.state.submission_plans) is not None:
        planned_later.offer(item.job for item in read.gradients)
    return read


@router.get("/{comparison_id}", response_model=ComparisonRead, responses=describe(404))
async def read_comparison(
    store: Store, costly: Costly, summaries: SummedUp, asker: Asker, comparison_id: ComparisonId
) -> Response:
    """Read what each gradient took and gave so far; of jobs that were deleted nothing."""

    def state() -> tuple[tuple[object, ...], ...]:
        with store.read_session() as session:
            found = comparisons.jobs_of(session, comparison_id, owner=asker.confined_to)
            return tuple((job.id, job.state, job.metric_seq, job.memory_seq) for job in found)

    key = ("comparison", comparison_id, asker.confined_to, await run_sync(state))

    def read() -> bytes:
        return _read(store, comparison_id, asker.confined_to, summaries).model_dump_json().encode()

    return Response(await costly.read(key, read), media_type="application/json")


def _read(store: Database, comparison: str, owner: str | None, summaries: MemorySummaries) -> ComparisonRead:
    with store.read_session() as session:
        found = comparisons.jobs_of(session, comparison, owner=owner)
        return ComparisonRead(id=comparison, gradients=[_compared(session, job, summaries) for job in found])


def _compared(session: Session, job: Job, summaries: MemorySummaries) -> ComparedGradient:
    result = JobResult.model_validate(job.result or {})
    phases = summaries.of_job(session, job.id)
    on = "host" if job.device_peak_bytes is None else "device"
    of_steps = [row[f"{on}_above_idle_bytes"] for row in phases if row["phase"] in get_args(StepPhase)]
    medians = {name: _median(session, job, name) for name in ("step_seconds", "nfe_forward", "nfe_backward")}
    steps = metrics.one_series(session, job.id, "step_seconds")
    return ComparedGradient(
        job=job.id,
        gradient=job.spec["gradient"],
        state=job.state,
        step=0 if steps is None else steps.last_step,
        test_nll=result.test_nll,
        test_nll_stderr=result.test_nll_stderr,
        gradient_error=None if result.gradient_error is None else result.gradient_error.relative,
        peak_bytes=job.host_peak_bytes if job.device_peak_bytes is None else job.device_peak_bytes,
        above_idle_bytes=max((value for value in of_steps if value is not None), default=None),
        **medians,
    )


def _median(session: Session, job: Job, name: str) -> float | None:
    values = [value for value in metrics.newest(session, job.id, name, limit=_NEWEST) if math.isfinite(value)]
    return statistics.median(values) if values else None
