"""Several metrics of a job in one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Response
from pydantic import Field
from sqlalchemy.orm import Session

from symadj.api.accept import best_of
from symadj.api.csv_answers import csv_answer
from symadj.api.dependencies import Costly, Drawing, JobId, Polls, Steps, Store
from symadj.api.etags import IfNoneMatch, holds
from symadj.api.long_polls import Page, State, awaited_page
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import SeriesList, series_json, series_list_json
from symadj.service.contract.flow_question import MediaType
from symadj.service.contract.records import MAX_METRICS
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.errors import NotFoundError
from symadj.service.store import Database, jobs, metrics, retention
from symadj.service.store.downsampling import Downsampler
from symadj.service.store.export import metric_rows
from symadj.service.store.metrics import MetricPoint
from symadj.service.store.step_range import StepRange
from symadj.service.store.tables import Job

router = APIRouter(prefix="/jobs/{job_id}/series", tags=["metrics"])

_OFFERED = (MediaType.JSON, MediaType.CSV)


@router.get(
    "",
    response_model=SeriesList,
    responses={
        200: {"content": {MediaType.CSV: {"schema": {"type": "string"}}}},
        304: {"description": "Nothing new since the ETag in If-None-Match"},
        **describe(404, 406),
    },
)
async def read_series(
    store: Store,
    costly: Costly,
    downsampler: Drawing,
    polls: Polls,
    job_id: JobId,
    steps: Steps,
    name: Annotated[
        list[Annotated[str, Field(max_length=100)]] | None,
        Query(max_length=MAX_METRICS, description="A metric, several times for several; default: all."),
    ] = None,
    points: Annotated[
        int, Query(ge=1, le=10_000, description="Buckets of each in JSON, at most; csv has every value.")
    ] = 500,
    after_seq: Annotated[
        int | None,
        Query(ge=0, lt=2**63, description="Instead of buckets, the values with a higher sequence number, in JSON."),
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=10_000, description="Values after `after_seq`, of all metrics, at most.")
    ] = 5000,
    wait: Annotated[
        float, Query(ge=0, le=30, description="Seconds to wait for values after `after_seq`, as for one metric.")
    ] = 0.0,
    accept: Annotated[
        str, Header(max_length=1000, description="application/json, or text/csv: a line a step, a column a metric.")
    ] = "*/*",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Read metrics side by side, of all steps or those asked for: downsampled in JSON, as `points` of one metric is;
    every value in csv. With `after_seq`, what is new in all of them, in one answer.
    """
    deadline = anyio.current_time() + wait
    media_type = best_of(accept, _OFFERED)
    names, state = await run_sync(_known, store, job_id, name)
    if after_seq is not None and media_type == MediaType.JSON:
        page = await awaited_page(polls, _New(store, job_id, tuple(names), steps), after_seq, limit, deadline)
        return Response(page.body, media_type=MediaType.JSON, headers={"Vary": "Accept"})
    if media_type == MediaType.CSV:
        return csv_answer(["step", *names], metric_rows(store, job_id, names, steps))
    etag = f'"{state.last_seq}-{points}-{int(state.ended)}{int(state.thinned)}-{len(names)}-{steps.first}-{steps.last}"'
    headers = {"ETag": etag, "Vary": "Accept"}
    if holds(if_none_match or "", etag):
        return Response(status_code=304, headers=headers)
    key = ("series", job_id, tuple(names), state, points, steps)
    body = await costly.read(key, lambda: _drawn(downsampler, job_id, names, points, steps, state))
    return Response(body, media_type=MediaType.JSON, headers=headers)


def _known(store: Database, job_id: str, names: list[str] | None) -> tuple[list[str], State]:
    """Return the metrics that are asked for, and how far those of the job are.

    Raises:
        NotFoundError: there is no such metric, or no such job.
    """
    with store.read_session() as session:
        job = jobs.get(session, job_id)
        known = [item.name for item in metrics.series(session, job_id)]
    wanted = list(dict.fromkeys(known if names is None else names))
    if absent := [item for item in wanted if item not in known]:
        raise NotFoundError(f"job {job_id!r} has no metric {absent[0]!r}; it has: {', '.join(known) or 'none'}")
    return wanted, _state_of(job)


def _state_of(job: Job) -> State:
    return State(job.metric_seq, JobState(job.state) in TERMINAL, retention.is_thinned(job))


@dataclass(frozen=True)
class _New:
    """The values of several metrics of a job in the order in which they were stored, read by threads."""

    store: Database
    job_id: str
    names: tuple[str, ...]
    steps: StepRange

    @property
    def key(self) -> tuple[object, ...]:
        return self.job_id, self.names, self.steps

    def state(self) -> State:
        """Return how far the job's metrics are.

        Raises:
            NotFoundError: there is no such job any more.
        """
        with self.store.read_session() as session:
            return self._state_in(session)

    def _state_in(self, session: Session) -> State:
        return _state_of(jobs.get(session, self.job_id))

    def page(self, after: int, limit: int) -> Page:
        """Return the values after a number, metric by metric."""
        with self.store.read_session() as session:
            state = self._state_in(session)
            found = [
                (row, name)
                for name in self.names
                for row in metrics.points(session, self.job_id, name, after_seq=after, limit=limit)
                if row.seq <= state.last_seq and self.steps.has(row.step)
            ]
        found = sorted(found, key=lambda item: item[0].seq)[:limit]
        full = len(found) == limit
        next_after = found[-1][0].seq if full else max(after, state.last_seq)
        complete = state.ended and not full
        rows_of: dict[str, list[MetricPoint]] = {name: [] for name in self.names}
        for row, name in found:
            rows_of[name].append(row)
        body = series_list_json(
            series_json(name, points=rows, next_after_seq=next_after, complete=complete, thinned=state.thinned)
            for name, rows in rows_of.items()
        )
        return Page(body, next_after, empty=not found, full=full, complete=complete)


def _drawn(
    downsampler: Downsampler, job_id: str, names: list[str], points: int, steps: StepRange, state: State
) -> bytes:
    return series_list_json(
        series_json(
            name,
            buckets=downsampler.buckets(job_id, name, count=points, steps=steps),
            next_after_seq=state.last_seq,
            complete=state.ended,
            thinned=state.thinned,
        )
        for name in names
    )
