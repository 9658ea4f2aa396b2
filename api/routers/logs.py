"""What the processes of a job's runs printed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Response
from sqlalchemy.orm import Session

from symadj.api.accept import best_of
from symadj.api.dependencies import JobId, Limit, Polls, Store
from symadj.api.etags import IfNoneMatch, holds
from symadj.api.long_polls import Page, State, awaited_page
from symadj.api.problems import describe
from symadj.api.schemas.telemetry import LogLineRead, LogPage
from symadj.service.contract.records import Stream
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.store import Database, jobs, logs
from symadj.service.store.tables import LogLine

router = APIRouter(prefix="/jobs/{job_id}/logs", tags=["logs"])

JSON, TEXT = "application/json", "text/plain"


@router.get(
    "",
    response_model=LogPage,
    responses={
        200: {"content": {TEXT: {}}},
        304: {"description": "Nothing new since the ETag in If-None-Match"},
        **describe(404, 406),
    },
)
async def read_logs(
    store: Store,
    polls: Polls,
    job_id: JobId,
    attempt: Annotated[int | None, Query(ge=1, lt=2**63, description="Of this attempt alone; default: of all.")] = None,
    rank: Annotated[
        Literal["driver"] | Annotated[int, Query(ge=0, lt=10**6)] | None,
        Query(description="Of this rank alone, or of the `driver`; default: of all."),
    ] = None,
    stream: Annotated[Stream | None, Query(description="What was printed to it alone; default: all.")] = None,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only lines with a higher number.")] = 0,
    limit: Limit = 1000,
    tail: Annotated[
        int | None, Query(ge=1, le=1000, description="Of these only the newest, so many at most, instead of `limit`.")
    ] = None,
    wait: Annotated[
        float, Query(ge=0, le=30, description="Seconds to wait for lines after `after`; as for metrics.")
    ] = 0.0,
    accept: Annotated[
        str, Header(max_length=1000, description=f"{JSON}, or {TEXT}: a line each, with its time and its process.")
    ] = "*/*",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Read what the driver and the ranks of a job printed: stdout, stderr, messages of libraries, last words.

    Of each process of an attempt the first 128 KiB are kept, and the newest 512 KiB; of a job 16 MiB.
    """
    media_type = best_of(accept, (JSON, TEXT))
    source = None if rank is None else "driver" if rank == "driver" else f"rank-{rank}"
    printed = _Printed(store, job_id, attempt, source, stream, media_type)
    if tail is not None:
        page = await run_sync(printed.newest, after, tail)
    elif wait:
        page = await awaited_page(polls, printed, after, limit, anyio.current_time() + wait)
    else:
        page = await run_sync(printed.page, after, limit)
    etag = f'"{hashlib.sha256(page.body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Vary": "Accept"}
    if holds(if_none_match or "", etag):
        return Response(status_code=304, headers=headers)
    return Response(page.body, media_type=media_type, headers=headers)


@dataclass(frozen=True)
class _Printed:
    """What one, some or all processes of a job printed, read by threads."""

    store: Database
    job_id: str
    attempt: int | None
    source: str | None
    stream: Stream | None
    media_type: str

    @property
    def key(self) -> tuple[str | int | None, ...]:
        return "logs", self.job_id, self.attempt, self.source, self.stream, self.media_type

    def state(self) -> State:
        """Return how far it is; of all processes.

        Raises:
            NotFoundError: there is no such job.
        """
        with self.store.read_session() as session:
            return self._state_in(session)

    def _state_in(self, session: Session) -> State:
        ended = JobState(jobs.get(session, self.job_id).state) in TERMINAL
        return State(logs.last_seq(session, self.job_id), ended)

    def page(self, after: int, limit: int) -> Page:
        """Return the lines after a number."""
        return self._read(after, limit, newest=False)

    def newest(self, after: int, limit: int) -> Page:
        """Return the last of these."""
        return self._read(after, limit, newest=True)

    def _read(self, after: int, limit: int, *, newest: bool) -> Page:
        with self.store.read_session() as session:
            state = self._state_in(session)
            rows = logs.lines(
                session,
                self.job_id,
                attempt=self.attempt,
                source=self.source,
                stream=self.stream,
                after=after,
                limit=limit,
                newest=newest,
            )
        full = len(rows) == limit and not newest
        # What others printed meanwhile is not to be looked through again.
        next_after = rows[-1].seq if full else max(after, state.last_seq)
        complete = state.ended and next_after >= state.last_seq
        return Page(self._body(rows, next_after, complete), next_after, empty=not rows, full=full, complete=complete)

    def _body(self, rows: Sequence[LogLine], next_after: int, complete: bool) -> bytes:
        items = [_line(row) for row in rows]
        if self.media_type == TEXT:
            told = (f"{item.time:%Y-%m-%dT%H:%M:%SZ} {item.source} {item.words}\n" for item in items)
            return "".join(told).encode()
        return LogPage(items=items, next_after=next_after, complete=complete).model_dump_json().encode()


def _line(row: LogLine) -> LogLineRead:
    return LogLineRead(
        seq=row.seq,
        attempt=row.attempt,
        rank=None if row.source == "driver" else int(row.source.removeprefix("rank-")),
        stream=row.stream,
        time=row.time,
        text=row.text,
        left_out_bytes=row.left_out_bytes,
    )
