"""What lists of jobs say beside their rows: places in the queue, what is waited for, the time until the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from symadj.service.contract.records import StepRecord
from symadj.service.contract.states import JobState
from symadj.service.lifecycle import figures, requests
from symadj.service.lifecycle.figures import JobFigures
from symadj.service.store import Database, jobs, metrics
from tests.service.lives import running, submit, toy_spec


def read(database: Database, job_id: str, most_active: int | None = None) -> JobFigures:
    with database.read_session() as session:
        return figures.of_job(session, job_id, most_active=most_active)


@pytest.mark.parametrize(
    ("text", "found"), [("MOONS", {"Two moons"}), ("100%", {"a 100_"}), ("_", {"a 100_"}), ("nothing", set())]
)
def test_a_text_finds_the_jobs_that_have_it_in_their_names(database: Database, text: str, found: set[str]) -> None:
    for name in ("Two moons", "a 100_"):
        submit(database, name=name)
    with database.read_session() as session:
        assert {job.name for job in jobs.page(session, text=text, limit=9).items} == (
            found if text != "100%" else set()
        )


def test_a_text_finds_a_job_by_a_part_of_its_id(database: Database) -> None:
    wanted, _ = submit(database), submit(database)
    with database.read_session() as session:
        assert [job.id for job in jobs.page(session, text=wanted[-8:].upper(), limit=9).items] == [wanted]


def test_places_in_the_queue_are_those_in_which_the_dispatcher_takes_jobs(database: Database) -> None:
    ids = [submit(database, priority=priority) for priority in (0, 5, 0, 5)]
    with database.read_session() as session:
        order = [job.id for job in jobs.next_queued(session, limit=9, now=datetime.now(UTC))]
        found = figures.of_jobs(session, [jobs.get(session, job_id) for job_id in ids], most_active=None)
    places = {item.job.id: item.waiting.place for item in found if item.waiting}
    assert sorted(ids, key=lambda job_id: places[job_id]) == order
    assert sorted(places.values()) == [1, 2, 3, 4]


def test_a_queued_job_says_what_it_waits_for_and_others_say_nothing(database: Database) -> None:
    first, second = submit(database), submit(database)
    assert "as soon as" in (read(database, first).waiting or pytest.fail("it waits")).reason
    assert "1 job is ahead" in (read(database, second).waiting or pytest.fail("it waits")).reason
    with database.session() as session:
        jobs.get(session, first).state = JobState.RUNNING
    assert read(database, first).waiting is None
    assert "beside the jobs that run now (1)" in (read(database, second).waiting or pytest.fail("it waits")).reason
    limited = read(database, second, most_active=1).waiting
    assert "SYMADJ_MAX_ACTIVE_PER_OWNER" in (limited or pytest.fail("it waits")).reason
    with database.session() as session:
        jobs.get(session, second).not_before = datetime.now(UTC) + timedelta(seconds=60)
    assert "after a pause" in (read(database, second).waiting or pytest.fail("it waits")).reason


def test_what_is_said_of_a_new_job_is_what_is_said_of_it_later(database: Database) -> None:
    running(database)
    submit(database)
    with database.session() as session:
        job, _ = requests.submit(session, toy_spec(stop={"max_steps": 7}), owner="ada")
        new = figures.of_new_job(session, job, most_active=1)
    assert new.max_steps == 7
    assert new == replace(read(database, job.id, most_active=1), job=job)


def test_a_new_job_takes_four_statements(database: Database) -> None:
    statements: list[str] = []
    with database.session() as session:
        sa.event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        job, _ = requests.submit(session, toy_spec(), owner="ada")
        figures.of_new_job(session, job, most_active=None)
    assert len(statements) == 4, "each is a round trip to PostgreSQL: " + "; ".join(statements)


def test_the_time_left_is_that_of_the_newest_steps_and_the_pauses_between_them(database: Database) -> None:
    job_id = running(database, stop={"max_steps": 300})
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def send(first: int, last: int, seconds: float) -> None:
        records = [
            StepRecord(step=step, time=start + timedelta(seconds=step * seconds), metrics={"nll": 1.0})
            for step in range(first, last + 1)
        ]
        with database.session() as session:
            job = jobs.lock(session, job_id)
            metrics.append(session, job, job.attempt, records)

    assert read(database, job_id).eta_seconds is None
    send(1, 1, 1.0)
    assert read(database, job_id).eta_seconds is None, "one step has no pace"
    send(2, 100, 1.0)
    assert read(database, job_id).eta_seconds == pytest.approx(200.0)
    with database.session() as session:
        jobs.get(session, job_id).state = JobState.PAUSED
    assert read(database, job_id).eta_seconds is None
