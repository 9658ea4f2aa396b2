"""Parts of a run that fall silent, and what must not be taken for that."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from symadj.service.dispatcher import Dispatcher
from symadj.service.dispatcher.heartbeats import Heartbeats
from symadj.service.lifecycle import attempts
from symadj.service.ray_jobs import RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from symadj.service.store.tables import IngestSource
from tests.conftest import running_api
from tests.service.conftest import Clock
from tests.service.lives import ask, attempts_of, read, submit
from tests.service.ray_server import RayServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)


def looks(silence: Heartbeats, clock: Clock, seconds: int, **seen_at: datetime) -> set[object]:
    """Look every second for so long; return who was silent at the last look."""
    silent: set[object] = set()
    for _ in range(seconds):
        clock.now += 1
        silent = set(silence.look(seen_at))
    return silent


def test_who_says_nothing_new_for_the_whole_lease_is_silent(clock: Clock) -> None:
    silence = Heartbeats(10, clock)
    assert looks(silence, clock, 10, a=NOW, b=NOW) == set()
    assert looks(silence, clock, 1, a=NOW, b=LATER) == {"a"}
    assert looks(silence, clock, 10, a=NOW, b=LATER) == {"a", "b"}


def test_a_sleep_of_the_machine_or_a_failed_look_starts_the_clock_afresh(clock: Clock) -> None:
    silence = Heartbeats(10, clock)
    looks(silence, clock, 10, a=NOW)
    clock.now += 3600
    assert looks(silence, clock, 1, a=NOW) == set()
    assert looks(silence, clock, 9, a=NOW) == set()
    silence.start_afresh()
    assert looks(silence, clock, 10, a=NOW) == set()
    assert looks(silence, clock, 1, a=NOW) == {"a"}


@pytest.fixture
def job_id(database: Database, dispatcher: Dispatcher) -> str:
    """A job whose driver and rank were heard of once."""
    job_id = submit(database)
    dispatcher.round()
    with database.session() as session:
        for source in ("driver", "rank-0"):
            session.add(IngestSource(job_id=job_id, attempt=1, source=source, next_seq=2, seen_at=NOW, closed=False))
    return job_id


def hear(database: Database, job_id: str, source: str, *, closed: bool = False) -> None:
    with database.session() as session:
        row = session.get_one(IngestSource, (job_id, 1, source))
        assert row.seen_at is not None
        row.seen_at, row.closed = row.seen_at + timedelta(seconds=1), closed


def rounds(dispatcher: Dispatcher, clock: Clock, seconds: int) -> None:
    for _ in range(0, seconds, 10):
        clock.now += 10
        dispatcher.round()


def test_a_silent_run_is_stopped_and_tried_again(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, job_id: str
) -> None:
    rounds(dispatcher, clock, 40)
    hear(database, job_id, "driver")
    rounds(dispatcher, clock, 20)
    assert ray.stopped == []
    rounds(dispatcher, clock, 10)
    assert set(ray.stopped) == {f"{job_id}-1"}
    (attempt,) = attempts_of(database, job_id)
    assert (attempt.outcome, attempt.reason) == ("lost", "worker_lost")
    assert attempt.message == "rank-0 was not heard from for 60 s, while the API took records."
    assert read(database, job_id).state == "queued", "until Ray has ended the run"
    ray.jobs[f"{job_id}-1"]["status"] = "STOPPED"
    dispatcher.round()
    assert list(ray.jobs) == [f"{job_id}-1", f"{job_id}-2"]


def test_a_source_that_took_leave_may_be_silent(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, job_id: str
) -> None:
    hear(database, job_id, "rank-0", closed=True)
    hear(database, job_id, "driver", closed=True)
    rounds(dispatcher, clock, 200)
    assert ray.stopped == []


def test_an_api_that_was_away_costs_no_run(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, job_id: str
) -> None:
    rounds(dispatcher, clock, 50)
    ray.api_answers = False
    rounds(dispatcher, clock, 300)
    ray.api_answers = True
    rounds(dispatcher, clock, 60)
    assert ray.stopped == []
    rounds(dispatcher, clock, 10)
    assert set(ray.stopped) == {f"{job_id}-1"}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_an_api_whose_way_for_records_is_blocked_costs_no_run(
    database: Database, ray: RayServer, settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    blocked, healthy = submit(database), submit(database)
    with contextlib.ExitStack() as stack:
        url = database.engine.url.render_as_string(hide_password=False)
        api = stack.enter_context(running_api(tmp_path, SYMADJ_STORE_URL=url))
        client = stack.enter_context(contextlib.closing(RayJobs(ray.url)))
        changed = {"api_url": api.url, "run_lease_seconds": 20.0}
        dispatcher = Dispatcher(database, client, settings.model_copy(update=changed), clock=clock)
        stack.callback(dispatcher.close)
        dispatcher.round()
        with database.session() as session:
            session.add(IngestSource(job_id=healthy, attempt=1, source="rank-0", next_seq=2, seen_at=NOW, closed=False))
            jobs.attempt(session, blocked, 1).token_hash = attempts.hash_token("blocked")
        pool = stack.enter_context(ThreadPoolExecutor(16))
        with database.session() as holder:
            jobs.lock(holder, blocked)
            batch = {"source": "rank-0", "first_seq": 1, "records": []}
            headers = {"Authorization": "Bearer blocked"}
            address = f"{api.url}/api/v1/ingest/batches"
            sent = [pool.submit(httpx.post, address, json=batch, headers=headers, timeout=120) for _ in range(16)]
            for _ in range(4):
                clock.now += 10
                dispatcher.round()
            assert httpx.get(f"{api.url}/healthz").status_code == 200
            assert ray.stopped == []
        assert {answer.result().status_code for answer in sent} == {200}
        rounds(dispatcher, clock, 20)
        assert ray.stopped == []
        rounds(dispatcher, clock, 10)
        assert f"{healthy}-1" in ray.stopped


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_store_that_was_locked_against_writing_costs_no_run(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, job_id: str
) -> None:
    path = database.engine.url.database
    assert path is not None
    sa.event.listen(database.engine, "connect", lambda new, _: new.execute("PRAGMA busy_timeout = 0"))
    database.engine.dispose()
    rounds(dispatcher, clock, 50)
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError):
        rounds(dispatcher, clock, 10)
    locker.close()
    rounds(dispatcher, clock, 60)
    assert ray.stopped == []
    rounds(dispatcher, clock, 10)
    assert set(ray.stopped) == {f"{job_id}-1"}


def test_no_run_is_stopped_while_the_store_can_not_write_down_that_it_is_lost(
    database: Database,
    ray: RayServer,
    dispatcher: Dispatcher,
    clock: Clock,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OperationalError("UPDATE jobs", {}, Exception("database or disk is full"))

    monkeypatch.setattr(attempts, "lose", full)
    rounds(dispatcher, clock, 60)
    with pytest.raises(OperationalError):
        rounds(dispatcher, clock, 10)
    assert ray.stopped == []
    assert read(database, job_id).state == "starting"


def test_a_silent_run_that_was_to_pause_is_paused(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, job_id: str
) -> None:
    ask(database, job_id, "pause")
    rounds(dispatcher, clock, 70)
    assert read(database, job_id).state == "paused"
