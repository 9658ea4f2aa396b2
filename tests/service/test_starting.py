"""Which jobs of the queue are given to Ray, how, and when."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from symadj.service.contract.order import PLACE_VARIABLE, RunOrder, read_order, take_token
from symadj.service.contract.states import JobState
from symadj.service.dispatcher import MAX_REFUSALS, Dispatcher
from symadj.service.identifiers import new_job_id
from symadj.service.lifecycle import requests
from symadj.service.ray_jobs import RayJobs, RayRefusedError
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from symadj.service.store.tables import Job
from tests.buckets import BucketServer
from tests.service.lives import (
    ask,
    attempts_of,
    end,
    lose,
    read,
    running,
    send,
    submit,
    toy_spec,
)
from tests.service.ray_server import RayServer


def order(ray: RayServer, submission_id: str) -> RunOrder:
    return read_order(ray.jobs[submission_id]["runtime_env"]["env_vars"][PLACE_VARIABLE])


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_job_is_started_when_it_is_submitted_and_not_after_the_pause_between_two_rounds(
    database: Database, store_url: str, ray: RayServer, tmp_path: Path
) -> None:
    names = {"DATA": str(tmp_path), "STORE_URL": store_url, "RAY_ADDRESS": ray.url, "API_URL": ray.url}
    environment = {f"SYMADJ_{name}": value for name, value in (names | {"POLL_SECONDS": "60"}).items()}
    job_ids = [submit(database)]
    dispatcher = subprocess.Popen([sys.executable, "-m", "symadj.service.dispatcher"], env=os.environ | environment)
    try:
        deadline = time.monotonic() + 50
        while len(ray.jobs) < 2:
            assert time.monotonic() < deadline, list(ray.jobs)
            if len(ray.jobs) == len(job_ids):
                job_ids.append(submit(database))
            time.sleep(0.02)
    finally:
        dispatcher.kill()
        dispatcher.wait()
    assert list(ray.jobs) == [f"{job_id}-1" for job_id in job_ids]


def test_ray_is_told_where_buckets_are_and_nothing_secret(
    database: Database, ray: RayServer, settings: Settings, dispatcher: Dispatcher, bucket_server: BucketServer
) -> None:
    settings.storage, settings.data_cache = bucket_server.new_bucket(), settings.data / "copies"
    job_id = submit(database)
    dispatcher.round()
    environment = ray.jobs[f"{job_id}-1"]["runtime_env"]["env_vars"]
    given = order(ray, f"{job_id}-1")
    assert (given.storage, given.data_cache) == (settings.storage, str(settings.data_cache))
    assert environment["AWS_ENDPOINT_URL"] == os.environ["AWS_ENDPOINT_URL"]
    ours = {name for name in environment if name.startswith("SYMADJ_")}
    assert ours == {PLACE_VARIABLE}
    token = take_token(environment[PLACE_VARIABLE])
    assert token not in given.model_dump_json()
    assert token not in str(ray.jobs)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(ray.jobs)


def states(database: Database, *job_ids: str) -> list[str]:
    return [read(database, job_id).state for job_id in job_ids]


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Collect the statements that the store is given meanwhile."""
    seen: list[str] = []

    def remember(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", remember)
    yield seen
    sa.event.remove(database.engine, "before_cursor_execute", remember)


def fill_queue(database: Database, count: int, *, owner: str = "ada") -> None:
    now = datetime.now(UTC)
    spec = toy_spec().stored()
    with database.session() as session:
        session.add_all(
            Job(
                id=new_job_id(),
                name="flow",
                owner=owner,
                spec=spec,
                priority=0,
                state="queued",
                created_at=now,
                updated_at=now,
            )
            for _ in range(count)
        )


def test_ten_thousand_queued_jobs_cost_a_round_a_few_statements(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    active = [running(database), running(database)]
    fill_queue(database, 10_000)
    with database.session() as session:
        for job_id in active:
            jobs.attempt(session, job_id, 1).submitted_at = datetime.now(UTC)
            ray.jobs[f"{job_id}-1"] = {"status": "RUNNING"}
    dispatcher.round()
    with statements(database) as seen:
        dispatcher.round()
    assert len(seen) <= 20
    assert len(ray.jobs) == 2


def test_two_dispatchers_never_give_the_same_room_away_twice(
    database: Database, ray: RayServer, settings: Settings
) -> None:
    ray.cpus = 3.0
    job_ids = [submit(database) for _ in range(8)]
    dispatchers = [Dispatcher(database, RayJobs(ray.url), settings) for _ in range(4)]
    barrier = threading.Barrier(4)

    def run(dispatcher: Dispatcher) -> None:
        barrier.wait()
        dispatcher.round()

    threads = [threading.Thread(target=run, args=(dispatcher,)) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ray.jobs) == sorted(f"{job_id}-1" for job_id in job_ids[:3])
    assert states(database, *job_ids) == ["starting"] * 3 + ["queued"] * 5


def test_a_job_whose_cluster_shrinks_before_its_workers_start_goes_on_with_fewer_or_lets_others_pass(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    elastic = submit(database, resources={"kind": "cpu", "workers": 2, "min_workers": 1})
    dispatcher.round()
    assert order(ray, f"{elastic}-1").workers == 2
    ray.cpus = 1.0
    dispatcher.round()
    assert (states(database, elastic), set(ray.stopped)) == (["queued"], {f"{elastic}-1"})
    ray.jobs[f"{elastic}-1"]["status"] = "STOPPED"
    dispatcher.round()
    assert order(ray, f"{elastic}-2").workers == 1
    assert [attempt.outcome for attempt in attempts_of(database, elastic)] == ["not_started", None]
    assert read(database, elastic).attempts_lost == 0, "nothing was lost"


def test_a_job_that_trains_is_left_alone_when_its_cluster_shrinks(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database, resources={"kind": "cpu", "workers": 2})
    dispatcher.round()
    with database.session() as session:
        jobs.transition(session, jobs.lock(session, job_id), JobState.RUNNING, actor="rank-0", message="")
    ray.cpus = 1.0
    dispatcher.round()
    assert (states(database, job_id), ray.stopped) == (["running"], [])


def test_an_elastic_job_takes_the_most_workers_that_fit_and_divide_its_batch(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    ray.cpus = 5.0
    data = {"kind": "toy", "name": "moons", "batch_size": 12}
    elastic = submit(database, data=data, resources={"kind": "cpu", "workers": 6, "min_workers": 2})
    fixed = submit(database, data=data, resources={"kind": "cpu", "workers": 2})
    dispatcher.round()
    assert order(ray, f"{elastic}-1").workers == 4, "5 would fit, and do not divide 12"
    assert attempts_of(database, elastic)[0].workers == 4
    assert states(database, elastic, fixed) == ["starting", "queued"], "the one CPU that is left is not enough"
    lose(database, elastic)
    ray.jobs[f"{elastic}-1"]["status"] = "FAILED"
    with database.session() as session:
        jobs.get(session, elastic).not_before = None
    ray.cpus = 2.0
    dispatcher.round()
    assert order(ray, f"{elastic}-2").workers == 2


def test_an_owner_with_enough_jobs_on_the_cluster_lets_others_pass(
    database: Database, ray: RayServer, settings: Settings
) -> None:
    settings.max_active_per_owner = 1
    dispatcher = Dispatcher(database, RayJobs(ray.url), settings)
    first = submit(database)
    fill_queue(database, 200)
    other = submit(database, owner="bob")
    dispatcher.round()
    assert states(database, first, other) == ["starting", "starting"]
    assert len(ray.jobs) == 2


def test_a_lost_job_waits_for_its_time_and_lets_others_pass(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    ray.cpus = 1.0
    lost, other = running(database), submit(database)
    lose(database, lost)
    dispatcher.round()
    assert states(database, lost, other) == ["queued", "starting"]
    ray.jobs[f"{other}-1"]["status"] = "FAILED"
    with database.session() as session:
        jobs.get(session, lost).not_before = datetime.now(UTC) - timedelta(seconds=1)
    dispatcher.round()
    assert states(database, lost) == ["starting"]


def test_the_next_attempt_waits_until_ray_has_ended_the_one_before(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    ask(database, job_id, "pause")
    end(database, job_id, "paused")
    ask(database, job_id, "resume")
    other = submit(database)
    dispatcher.round()
    assert ray.stopped == [f"{job_id}-1"]
    assert states(database, job_id, other) == ["queued", "starting"], "nobody waits for it"
    ray.jobs[f"{job_id}-1"]["status"] = "STOPPED"
    dispatcher.round()
    assert f"{job_id}-2" in ray.jobs


def test_a_job_that_ran_once_waits_for_a_cluster_that_has_shrunk(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    large = running(database, resources={"kind": "cpu", "workers": 2})
    lose(database, large)
    small = submit(database)
    with database.session() as session:
        jobs.get(session, large).not_before = None
    ray.cpus = 1.0
    dispatcher.round()
    assert states(database, large, small) == ["queued", "starting"]
    not_before = read(database, large).not_before
    assert not_before is not None
    assert not_before > datetime.now(UTC)


def test_a_run_is_told_how_many_checkpoints_were_asked_for(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    with database.session() as session:
        jobs.get(session, job_id).checkpoints_asked = 3
    dispatcher.round()
    assert order(ray, f"{job_id}-1").checkpoints_asked == 3


@pytest.mark.parametrize(
    "end_of_ray_job",
    [
        {"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED", "message": "its node died"},
        {"status": "FAILED", "driver_exit_code": -9},
        {"status": "FAILED", "driver_exit_code": 143},
        {"status": "STOPPED"},
    ],
)
def test_a_run_that_was_ended_from_outside_is_tried_again(
    database: Database, ray: RayServer, dispatcher: Dispatcher, end_of_ray_job: dict[str, Any]
) -> None:
    job_id = submit(database)
    dispatcher.round()
    ray.jobs[f"{job_id}-1"] |= end_of_ray_job
    dispatcher.round()
    assert [attempt.outcome for attempt in attempts_of(database, job_id)] == ["lost", None]


def test_a_run_that_does_not_pause_by_itself_is_stopped_and_paused(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    ask(database, job_id, "pause")
    dispatcher.round()
    assert ray.stopped == [f"{job_id}-1"]
    ray.jobs[f"{job_id}-1"]["status"] = "STOPPED"
    dispatcher.round()
    assert (read(database, job_id).state, read(database, job_id).attempts_lost) == ("paused", 0)


def test_a_run_that_trains_is_given_time_to_stop_with_a_checkpoint(
    database: Database, ray: RayServer, settings: Settings
) -> None:
    settings.cancel_grace_seconds = 1000
    dispatcher = Dispatcher(database, RayJobs(ray.url), settings)
    starting, training = submit(database), submit(database)
    dispatcher.round()
    place = ray.jobs[f"{training}-1"]["runtime_env"]["env_vars"][PLACE_VARIABLE]
    send(
        database,
        take_token(place),
        1,
        {"kind": "event", "time": datetime.now(UTC).isoformat(), "name": "a", "message": ""},
    )
    for job_id in (starting, training):
        ask(database, job_id, "pause")
    dispatcher.round()
    assert ray.stopped == [f"{starting}-1"]
    with database.session() as session:
        jobs.get(session, training).stop_requested_at = datetime.now(UTC) - timedelta(seconds=1001)
    dispatcher.round()
    assert ray.stopped[-1] == f"{training}-1"


def test_the_time_of_all_attempts_together_is_limited(
    database: Database, ray: RayServer, dispatcher: Dispatcher
) -> None:
    job_id = submit(database, timeout_minutes=10)
    dispatcher.round()
    now = datetime.now(UTC)
    with database.session() as session:
        jobs.attempt(session, job_id, 1).submitted_at = now - timedelta(hours=9, minutes=6)
    lose(database, job_id)
    with database.session() as session:
        jobs.get(session, job_id).not_before = None
        jobs.attempt(session, job_id, 1).finished_at = now - timedelta(hours=9)
    ray.jobs[f"{job_id}-1"]["status"] = "FAILED"
    dispatcher.round()
    dispatcher.round()
    assert (read(database, job_id).state, read(database, job_id).stop_requested) == ("starting", None)
    with database.session() as session:
        jobs.attempt(session, job_id, 2).submitted_at = now - timedelta(minutes=5)
    dispatcher.round()
    assert read(database, job_id).stop_requested == "timeout"
    dispatcher.round()
    ray.jobs[f"{job_id}-2"]["status"] = "STOPPED"
    dispatcher.round()
    assert (read(database, job_id).state, read(database, job_id).reason) == ("failed", "timeout")


def test_an_order_and_its_token_are_their_users_alone_and_the_token_is_there_until_the_run_has_read_it(
    database: Database, ray: RayServer, settings: Settings, dispatcher: Dispatcher
) -> None:
    job_id = submit(database)
    dispatcher.round()
    file = Path(ray.jobs[f"{job_id}-1"]["runtime_env"]["env_vars"][PLACE_VARIABLE])
    token = file.with_suffix(".token")
    assert {path.stat().st_mode & 0o777 for path in (file, token)} == {0o600}
    send(database, take_token(str(file)), 1)
    assert not token.exists()
    end(database, job_id, "failed")
    storage = settings.resolved_storage()
    with database.session() as session:
        requests.delete(session, jobs.lock(session, job_id), storage=storage)
    storage.discard(job_id)
    assert not file.exists()


def test_a_storage_that_took_no_orders_is_not_held_against_a_job_that_ray_refuses_once(
    database: Database, ray: RayServer, settings: Settings, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    settings.storage = str(tmp_path / "file" / "jobs")
    job_id = submit(database)
    for _ in range(MAX_REFUSALS + 1):
        dispatcher.round()
    tried = attempts_of(database, job_id)
    assert [attempt.outcome for attempt in tried] == ["not_started"] * (MAX_REFUSALS + 1)
    settings.storage, ray.refusal = None, "not ready yet"
    with pytest.raises(RayRefusedError):
        dispatcher.round()
    assert states(database, job_id) == ["queued"]
