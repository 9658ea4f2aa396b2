"""The wall clock is set forward or back while jobs run: nothing ends, starts or waits for that."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from symadj.service.contract.states import JobState
from symadj.service.dispatcher import Dispatcher
from symadj.service.lifecycle import attempts
from symadj.service.ray_jobs import RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs, sources
from tests.service.conftest import Clock
from tests.service.lives import ask, end, lose, read, submit
from tests.service.ray_server import RayServer

JUMPS = pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(hours=-1)], ids=["forward a day", "back an hour"])


class Wall:
    """The time of day, and what it was set forward by."""

    def __init__(self) -> None:
        self.jumped = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.jumped


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def settings(ray: RayServer, settings: Settings) -> Settings:
    return settings.model_copy(update={"cancel_grace_seconds": 15.0})


@pytest.fixture
def dispatcher(
    database: Database, ray: RayServer, settings: Settings, clock: Clock, wall: Wall
) -> Iterator[Dispatcher]:
    client = RayJobs(ray.url)
    dispatcher = Dispatcher(database, client, settings, clock=clock, wall=wall)
    yield dispatcher
    dispatcher.close()
    client.close()


def train(database: Database, job_id: str) -> None:
    """Let a rank report."""
    with database.session() as session:
        position = sources.get(session, job_id, 1, "rank-0")
        position.next_seq, position.seen_at = 2, datetime.now(UTC)
        jobs.transition(session, jobs.lock(session, job_id), JobState.RUNNING, actor="rank-0", message="")


def pass_time(dispatcher: Dispatcher, clock: Clock, seconds: float) -> None:
    """Let time pass as it does, in steps of some seconds with a look after each."""
    for _ in range(int(seconds / 5)):
        clock.now += 5
        dispatcher.round()


@JUMPS
def test_timeout_minutes_are_those_that_passed(
    database: Database, dispatcher: Dispatcher, clock: Clock, wall: Wall, jump: timedelta
) -> None:
    job_id = submit(database, timeout_minutes=2)
    dispatcher.round()
    dispatcher.round()
    wall.jumped = jump
    pass_time(dispatcher, clock, 110)
    assert read(database, job_id).stop_requested is None
    pass_time(dispatcher, clock, 15)
    assert read(database, job_id).stop_requested == "timeout"


@JUMPS
def test_an_attempt_before_counts_as_long_as_it_took(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, wall: Wall, jump: timedelta
) -> None:
    job_id = submit(database, timeout_minutes=2)
    dispatcher.round()
    pass_time(dispatcher, clock, 60)
    wall.jumped = jump
    ray.jobs[f"{job_id}-1"] |= {"status": "FAILED", "driver_exit_code": -9}
    dispatcher.round()
    with database.session() as session:  # by the clock that has jumped
        first = jobs.attempt(session, job_id, 1)
        first.finished_at = wall()
    wall.jumped = timedelta(0)  # and is set right again
    dispatcher.round()
    pass_time(dispatcher, clock, 45)
    assert read(database, job_id).attempt == 2
    assert read(database, job_id).stop_requested is None
    pass_time(dispatcher, clock, 30)
    assert read(database, job_id).stop_requested == "timeout"


@JUMPS
def test_a_run_that_is_to_stop_has_its_grace_and_no_more(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, wall: Wall, jump: timedelta
) -> None:
    job_id = submit(database)
    dispatcher.round()
    train(database, job_id)
    ask(database, job_id, "cancel")
    dispatcher.round()
    wall.jumped = jump
    pass_time(dispatcher, clock, 10)
    assert ray.stopped == []
    pass_time(dispatcher, clock, 5)
    assert ray.stopped == [f"{job_id}-1"]


@JUMPS
def test_the_lease_of_a_claim_lasts_as_long_as_it_does(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, wall: Wall, jump: timedelta
) -> None:
    job_id = submit(database)
    with database.session() as session:
        attempts.claim(session, jobs.lock(session, job_id), actor="another")
    ray.nodes = 0  # nothing new is to start
    dispatcher.round()
    wall.jumped = jump
    pass_time(dispatcher, clock, attempts.LEASE_SECONDS - 5)
    assert read(database, job_id).state == "starting"
    pass_time(dispatcher, clock, 10)
    assert read(database, job_id).state == "queued"


@JUMPS
def test_a_run_that_outlives_its_attempt_is_stopped_after_its_minute(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock, wall: Wall, jump: timedelta
) -> None:
    job_id = submit(database)
    dispatcher.round()
    end(database, job_id, "succeeded")
    wall.jumped = jump
    pass_time(dispatcher, clock, 50)
    assert ray.stopped == []
    pass_time(dispatcher, clock, 60)
    assert ray.stopped[0] == f"{job_id}-1"


def test_a_pause_between_attempts_is_never_longer_than_the_longest(
    database: Database, dispatcher: Dispatcher, wall: Wall
) -> None:
    job_id = submit(database)
    with database.session() as session:
        attempts.claim(session, jobs.lock(session, job_id), actor="d")
    lose(database, job_id)
    dispatcher.round()
    assert read(database, job_id).state == "queued", "it pauses"
    wall.jumped = timedelta(hours=-1)
    dispatcher.round()
    dispatcher.round()
    assert read(database, job_id).state == "starting"


@pytest.mark.parametrize("wish", ["cancel", "pause"])
def test_a_job_that_symadj_ended_is_not_told_as_killed_from_outside(
    wish: str, database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock
) -> None:
    job_id = submit(database)
    dispatcher.round()
    train(database, job_id)
    ask(database, job_id, wish)
    dispatcher.round()
    pass_time(dispatcher, clock, 15)
    ray.jobs[f"{job_id}-1"] |= {"status": "STOPPED", "driver_exit_code": -15}
    dispatcher.round()
    with database.read_session() as session:
        message = jobs.attempt(session, job_id, 1).message
    assert message == f"The run did not stop by itself. symadj had Ray end it ({wish})."


def test_nor_is_one_whose_time_was_over(
    database: Database, ray: RayServer, dispatcher: Dispatcher, clock: Clock
) -> None:
    job_id = submit(database, timeout_minutes=1)
    dispatcher.round()
    pass_time(dispatcher, clock, 90)
    ray.jobs[f"{job_id}-1"] |= {"status": "STOPPED", "driver_exit_code": -15}
    dispatcher.round()
    job = read(database, job_id)
    assert (job.state, job.reason) == ("failed", "timeout")
    assert "The run did not stop by itself. symadj had Ray end it (timeout)." in (job.message or "")
