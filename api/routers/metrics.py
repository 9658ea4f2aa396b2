"""Metrics of a job: their names, and the values of one."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Path, Query, Response
from sqlalchemy.orm import Session

from symadj.api.bulkheads import InFlight
from symadj.api.dependencies import AfterSeq, Costly, Drawing, JobId, Joined, Limit, Store
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import BucketRead, MetricList, MetricPointRead, MetricRead, MetricSeriesRead
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.errors import NotFoundError
from symadj.service.store import Database, jobs, metrics
from symadj.service.store.downsampling import Downsampler

router = APIRouter(prefix="/jobs/{job_id}/metrics", tags=["metrics"])

# Between two queries for those who wait for a metric; each is one indexed query for all of them.
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class _State:
    """How far a series is: the number of its newest value, and whether its job has ended."""

    last_seq: int
    ended: bool


@dataclass(frozen=True)
class _Page:
    """An answer with what its ETag is made of; ``news``: whether whoever waits has waited for this."""

    body: bytes
    next_after_seq: int
    complete: bool
    news: bool


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
    costly: Costly,
    downsampler: Drawing,
    in_flight: Joined,
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
) -> Response:
    """Read the values of one metric: all after `after_seq` for polling, or the whole series downsampled.

    Few series are downsampled at once, each for all who ask for it: beyond that the answer is 503 with Retry-After.
    """
    deadline = time.monotonic() + wait
    known = {tag.strip() for tag in (if_none_match or "").split(",")}
    if points is not None:
        state = await run_sync(_state, store, job_id, name)
        if state.last_seq == 0 and not state.ended:
            state = await _next(in_flight, store, job_id, name, after_seq=0, deadline=deadline)
        etag = f'"{state.last_seq}-{after_seq}-{limit}-{points}-{int(state.ended)}"'
        if etag in known:
            return _unchanged(etag)
        key = (job_id, name, state, points)
        return _answer(etag, await costly.read(key, lambda: _downsampled(downsampler, job_id, name, state, points)))

    def read() -> Awaitable[_Page]:
        return run_sync(_page, store, job_id, name, after_seq, limit)

    if not wait:
        page = await read()
    else:
        # All who wait from the same number on get the same page.
        page = await in_flight.join(("page", job_id, name, after_seq, limit), read)
        while not page.news and time.monotonic() < deadline:
            await _next(in_flight, store, job_id, name, after_seq=after_seq, deadline=deadline)
            page = await in_flight.join(("page", job_id, name, after_seq, limit), read)
    etag = f'"{page.next_after_seq}-{after_seq}-{limit}-0-{int(page.complete)}"'
    return _unchanged(etag) if etag in known else _answer(etag, page.body)


def _answer(etag: str, body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"ETag": etag})


def _unchanged(etag: str) -> Response:
    return Response(status_code=304, headers={"ETag": etag})


async def _next(
    in_flight: InFlight, store: Database, job_id: str, name: str, *, after_seq: int, deadline: float
) -> _State:
    """Return how far a series is when it has a value after ``after_seq``, its job has ended, or time is up."""

    async def look() -> _State:
        await anyio.sleep(_LOOK_SECONDS)
        return await run_sync(_state, store, job_id, name)

    while True:
        state = await in_flight.join(("state", job_id, name), look)
        if state.last_seq > after_seq or state.ended or time.monotonic() >= deadline:
            return state


def _state(store: Database, job_id: str, name: str) -> _State:
    """Return how far a series is.

    Raises:
        NotFoundError: the job has ended without that metric, or there is no such job.
    """
    with store.read_session() as session:
        return _state_in(session, job_id, name)


def _state_in(session: Session, job_id: str, name: str) -> _State:
    job = jobs.get(session, job_id)
    series = metrics.one_series(session, job_id, name)
    ended = JobState(job.state) in TERMINAL
    if series is None and ended:
        known = ", ".join(item.name for item in metrics.series(session, job_id)) or "none"
        raise NotFoundError(f"job {job_id!r} has no metric {name!r}; it has: {known}")
    return _State(series.last_seq if series is not None else 0, ended)


def _downsampled(downsampler: Downsampler, job_id: str, name: str, state: _State, points: int) -> bytes:
    drawn = downsampler.buckets(job_id, name, count=points)
    series = MetricSeriesRead(
        name=name,
        points=[],
        buckets=[BucketRead(**vars(bucket)) for bucket in drawn],
        next_after_seq=state.last_seq,
        complete=state.ended,
    )
    return series.model_dump_json().encode()


def _page(store: Database, job_id: str, name: str, after_seq: int, limit: int) -> _Page:
    with store.read_session() as session:
        state = _state_in(session, job_id, name)
        rows = metrics.points(session, job_id, name, after_seq=after_seq, limit=limit)
    next_after = rows[-1].seq if rows else after_seq
    complete = state.ended and next_after >= state.last_seq
    series = MetricSeriesRead(
        name=name,
        points=[MetricPointRead(seq=row.seq, step=row.step, time=row.time, value=row.value) for row in rows],
        buckets=[],
        next_after_seq=next_after,
        complete=complete,
    )
    return _Page(series.model_dump_json().encode(), next_after, complete, news=bool(rows) or complete)
