"""What happens to a job, as it happens: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from symadj.api.dependencies import JobId, Polls, Store
from symadj.api.long_polls import LongPolls, State, next_state
from symadj.api.problems import describe
from symadj.api.schemas.jobs import EventRead, JobEnd
from symadj.api.schemas.telemetry import MetricList, MetricRead
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.errors import BusyError
from symadj.service.store import Database, events, jobs, metrics

router = APIRouter(prefix="/jobs/{job_id}/stream", tags=["events"])

EVENT_STREAM = "text/event-stream"
# Who wait, with long polls and streams alike, before no more streams are begun.
MOST_WAITING = 500
# Proxies take a connection on which nothing is sent for a dead one.
_SECONDS_OF_SILENCE = 15.0
_EVENTS_OF_A_READ = 200
_ID = r"^\d{1,18}-\d{1,18}$"


@router.get(
    "",
    response_class=Response,
    responses={
        200: {"content": {EVENT_STREAM: {}}},
        204: {"description": "The job has ended, and Last-Event-ID has all of it: a browser asks no more"},
        **describe(404),
    },
)
async def stream_job(
    store: Store,
    polls: Polls,
    job_id: JobId,
    wait: Annotated[
        float, Query(ge=0, le=600, description="Seconds for which the stream goes on; 0: what there is now.")
    ] = 0.0,
    last_event_id: Annotated[
        str, Header(pattern=_ID, description="The id of the last event that was received: what follows it.")
    ] = "",
) -> Response:
    """Stream what happens to a job as server-sent events.

    `event`: one of its events, state changes among them. `values`: the metrics that have new values, each with its
    newest one; what came between is left out. `end`: the job has ended.
    """
    after = _Place.parse(last_event_id)
    job = _Followed(store, job_id)
    found = await run_sync(job.read, after)
    if found.ended and found.place == after:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if not wait or found.complete:
        return Response(found.frames, media_type=EVENT_STREAM, headers=headers)
    if polls.waiting >= MOST_WAITING:
        raise BusyError(
            f"{MOST_WAITING} wait for what is new, and no more at once: repeat the request after the seconds that "
            "Retry-After says, or without wait"
        )
    deadline = anyio.current_time() + wait
    return StreamingResponse(_stream(polls, job, found, deadline), media_type=EVENT_STREAM, headers=headers)


@dataclass(frozen=True)
class _Place:
    """The numbers of the newest event and of the newest value that were sent."""

    event: int = 0
    value: int = 0

    @classmethod
    def parse(cls, text: str) -> _Place:
        return cls() if not text else cls(*map(int, text.split("-")))

    def __str__(self) -> str:
        return f"{self.event}-{self.value}"


@dataclass(frozen=True)
class _Found:
    """Frames to send, the place behind them, whether the job has ended, and whether nothing comes after them."""

    frames: str
    place: _Place
    ended: bool
    complete: bool


@dataclass(frozen=True)
class _Followed:
    """A job, read by threads."""

    store: Database
    job_id: str

    @property
    def key(self) -> tuple[str, str]:
        return "stream", self.job_id

    def state(self) -> State:
        """Return how far it is: the sum of its numbers, each of which only grows."""
        with self.store.read_session() as session:
            job = jobs.get(session, self.job_id)
            return State(job.event_seq + job.metric_seq, JobState(job.state) in TERMINAL)

    def read(self, after: _Place) -> _Found:
        """Return what is new."""
        with self.store.read_session() as session:
            job = jobs.get(session, self.job_id)
            happened = events.after(session, self.job_id, after_seq=after.event, limit=_EVENTS_OF_A_READ)
            new = [item for item in metrics.series(session, self.job_id) if item.last_seq > after.value]
            ended = JobState(job.state) in TERMINAL
            place, frames = after, ""
            for event in happened:
                place = _Place(event.seq, place.value)
                frames += _frame("event", place, EventRead.model_validate(event).model_dump_json())
            if new:
                place = _Place(place.event, max(item.last_seq for item in new))
                listed = MetricList(items=[MetricRead.model_validate(item) for item in new])
                frames += _frame("values", place, listed.model_dump_json())
            complete = ended and len(happened) < _EVENTS_OF_A_READ
            if complete:
                frames += _frame("end", place, JobEnd(state=JobState(job.state)).model_dump_json())
            return _Found(frames, place, ended, complete)


def _frame(kind: str, place: _Place, data: str) -> str:
    return f"event: {kind}\nid: {place}\ndata: {data}\n\n"


async def _stream(polls: LongPolls, job: _Followed, found: _Found, deadline: float) -> AsyncIterator[str]:
    with polls.waiting_for(job.key) as awaited:
        yield found.frames
        while not found.complete and anyio.current_time() < deadline:
            place = found.place
            until = min(deadline, anyio.current_time() + _SECONDS_OF_SILENCE)
            state = await next_state(polls, awaited, job, after=place.event + place.value, deadline=until)
            if state is None:
                yield ":\n\n"
                continue
            # All who have as much get the same.
            found = await awaited.reads.join(str(place), partial(run_sync, job.read, place))
            await polls.turn()
            yield found.frames
