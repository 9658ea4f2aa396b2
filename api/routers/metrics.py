"""Metrics of a job: their names, and the values of one."""

from __future__ import annotations

import time
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Path, Query, Response

from symadj.api.dependencies import AfterSeq, JobId, Limit, Store
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import BucketRead, MetricList, MetricPointRead, MetricRead, MetricSeriesRead
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.errors import NotFoundError
from symadj.service.store import Database, jobs, metrics

router = APIRouter(prefix="/jobs/{job_id}/metrics", tags=["metrics"])

# Between two queries of a waiting request; each is one indexed query.
_LOOK_SECONDS = 0.25


@router.get("", responses=describe(404))
def list_metrics(store: Store, job_id: JobId) -> MetricList:
    """List the metrics of a job with their newest values."""
    with store.read_session() as session:
        jobs.get(session, job_id)
        rows = metrics.series(session, job_id)
    return MetricList(
        items=[
            MetricRead(
                name=row.name,
                points=row.points,
                last_seq=row.last_seq,
                last_step=row.last_step,
                last_value=row.last_value,
            )
            for row in rows
        ]
    )


@router.get(
    "/{name}",
    response_model=MetricSeriesRead,
    responses={304: {"description": "Nothing new since the ETag in If-None-Match"}, **describe(404)},
)
async def read_metric(
    store: Store,
    response: Response,
    job_id: JobId,
    name: Annotated[str, Path(max_length=100)],
    after_seq: AfterSeq = 0,
    limit: Limit = 1000,
    points: Annotated[
        int | None,
        Query(
            ge=1, le=10_000, description="Downsample the whole series to at most so many buckets of equally many rows."
        ),
    ] = None,
    wait: Annotated[
        float, Query(ge=0, le=30, description="Seconds to wait for a value after `after_seq`, if there is none yet.")
    ] = 0.0,
    if_none_match: Annotated[str | None, Header(max_length=200)] = None,
) -> MetricSeriesRead | Response:
    """Read the values of one metric: all after `after_seq` for polling, or the whole series downsampled."""
    deadline = time.monotonic() + wait
    while True:
        series = await run_sync(_read, store, job_id, name, after_seq, limit, points)
        if series.points or series.buckets or series.complete or time.monotonic() >= deadline:
            break
        await anyio.sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
    etag = f'"{series.next_after_seq}-{after_seq}-{limit}-{points or 0}-{int(series.complete)}"'
    if if_none_match is not None and etag in {tag.strip() for tag in if_none_match.split(",")}:
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return series


def _read(store: Database, job_id: str, name: str, after_seq: int, limit: int, buckets: int | None) -> MetricSeriesRead:
    with store.read_session() as session:
        job = jobs.get(session, job_id)
        series = metrics.one_series(session, job_id, name)
        ended = JobState(job.state) in TERMINAL
        if series is None and ended:
            known = ", ".join(item.name for item in metrics.series(session, job_id)) or "none"
            raise NotFoundError(f"job {job_id!r} has no metric {name!r}; it has: {known}")
        last_seq = series.last_seq if series is not None else 0
        if buckets is not None:
            drawn = metrics.buckets(session, job_id, name, count=buckets)
            return MetricSeriesRead(
                name=name,
                points=[],
                buckets=[BucketRead(**vars(bucket)) for bucket in drawn],
                next_after_seq=last_seq,
                complete=ended,
            )
        rows = metrics.points(session, job_id, name, after_seq=after_seq, limit=limit)
    next_after = rows[-1].seq if rows else after_seq
    return MetricSeriesRead(
        name=name,
        points=[MetricPointRead(seq=row.seq, step=row.step, time=row.time, value=row.value) for row in rows],
        buckets=[],
        next_after_seq=next_after,
        complete=ended and next_after >= last_seq,
    )
