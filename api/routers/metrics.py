"""Metrics of a job: their names, and the values of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Response
from sqlalchemy.orm import Session

from symadj.api.dependencies import AfterSeq, Costly, Drawing, JobId, Limit, Polls, Store
from symadj.api.etags import IfNoneMatch, holds
from symadj.api.long_polls import Page, State, awaited_page, next_state
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import MetricList, MetricRead, MetricSeriesRead, series_json
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.errors import NotFoundError
from symadj.service.store import Database, jobs, metrics, retention
from symadj.service.store.downsampling import Downsampler

router = APIRouter(prefix="/jobs/{job_id}/metrics", tags=["metrics"])


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
    polls: Polls,
    job_id: JobId,
    name: Annotated[str, Path(max_length=100, description="Of a metric, as the list of metrics has it.")],
    after_seq: AfterSeq = 0,
    limit: Limit = 1000,
    points: Annotated[
        int | None,
        Query(
            ge=1, le=10_000, description="Downsample the whole series to at most so many buckets of equally many rows."
        ),
    ] = None,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=30,
            description="Seconds to wait for values after `after_seq`. They are gathered for 0.25 s, and for longer "
            "where many wait, unless there are `limit` of them.",
        ),
    ] = 0.0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Read the values of one metric: all after `after_seq` for polling, or the whole series downsampled.

    Few series are downsampled at once, each for all who ask for it: beyond that the answer is 503 with Retry-After.
    """
    deadline = anyio.current_time() + wait
    known = if_none_match or ""
    series = _Series(store, job_id, name)
    if points is not None:
        state = await run_sync(series.state)
        if wait and state.last_seq == 0 and not state.ended:
            with polls.waiting_for(series.key) as awaited:
                state = await next_state(polls, awaited, series, after=0, deadline=deadline) or state
        etag = f'"{state.last_seq}-{after_seq}-{limit}-{points}-{int(state.ended)}{int(state.thinned)}"'
        if holds(known, etag):
            return _unchanged(etag)
        key = (job_id, name, state, points)
        return _answer(etag, await costly.read(key, lambda: series.picture(downsampler, state, points)))
    if wait:
        page = await awaited_page(polls, series, after_seq, limit, deadline)
    else:
        page = await run_sync(series.page, after_seq, limit)
    etag = f'"{page.next_after}-{after_seq}-{limit}-0-{int(page.complete)}{int(page.thinned)}"'
    return _unchanged(etag) if holds(known, etag) else _answer(etag, page.body)


def _answer(etag: str, body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"ETag": etag})


def _unchanged(etag: str) -> Response:
    return Response(status_code=304, headers={"ETag": etag})


@dataclass(frozen=True)
class _Series:
    """One metric of one job, read by threads."""

    store: Database
    job_id: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.job_id, self.name

    def state(self) -> State:
        """Return how far it is.

        Raises:
            NotFoundError: the job has ended without that metric, or there is no such job.
        """
        with self.store.read_session() as session:
            return self._state_in(session)

    def _state_in(self, session: Session) -> State:
        job = jobs.get(session, self.job_id)
        series = metrics.one_series(session, self.job_id, self.name)
        ended = JobState(job.state) in TERMINAL
        if series is None and ended:
            known = ", ".join(item.name for item in metrics.series(session, self.job_id)) or "none"
            raise NotFoundError(f"job {self.job_id!r} has no metric {self.name!r}; it has: {known}")
        return State(series.last_seq if series is not None else 0, ended, retention.is_thinned(job))

    def picture(self, downsampler: Downsampler, state: State, points: int) -> bytes:
        """Return the whole series, downsampled."""
        drawn = downsampler.buckets(self.job_id, self.name, count=points)
        return series_json(
            self.name,
            buckets=drawn,
            next_after_seq=state.last_seq,
            complete=state.ended,
            thinned=state.thinned,
        )

    def page(self, after: int, limit: int) -> Page:
        """Return the values after a number."""
        with self.store.read_session() as session:
            state = self._state_in(session)
            rows = metrics.points(session, self.job_id, self.name, after_seq=after, limit=limit)
        next_after = rows[-1].seq if rows else after
        complete = state.ended and next_after >= state.last_seq
        return Page(
            series_json(self.name, points=rows, next_after_seq=next_after, complete=complete, thinned=state.thinned),
            next_after,
            empty=not rows,
            full=len(rows) == limit,
            complete=complete,
            thinned=state.thinned,
        )
