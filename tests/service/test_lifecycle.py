"""The life of a job in the store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import product

import pytest

from symadj.service.contract import layout
from symadj.service.contract.states import TERMINAL, TRANSITIONS, JobState, ReasonCode
from symadj.service.contract.storage import Storage
from symadj.service.errors import ConflictError, IdempotencyMismatchError, NotFoundError
from symadj.service.lifecycle import attempts, requests
from symadj.service.store import Database, jobs
from symadj.service.store.tables import Job
from tests.service.lives import end, event_names, running, submit, toy_spec


def test_only_allowed_transitions_happen(database: Database) -> None:
    for state, to in product(JobState, JobState):
        job_id = submit(database)
        with database.session() as session:
            jobs.get(session, job_id).state = state.value
        with database.session() as session:
            moved = jobs.transition(session, jobs.get(session, job_id), to, actor="test", message="")
        with database.read_session() as session:
            now = jobs.get(session, job_id)
        assert moved == (to in TRANSITIONS[state]), (state, to)
        assert now.state == (to if moved else state), (state, to)
        assert len(event_names(database, job_id)) == 1 + moved, (state, to)
        if moved:
            assert (now.finished_at is not None) == (to in TERMINAL), (state, to)


def test_of_many_dispatchers_only_one_gets_a_job(database: Database) -> None:
    job_id = submit(database)

    def claim(actor: str) -> bool:
        with database.session() as session:
            job = jobs.lock(session, job_id)
            return attempts.claim(session, job, actor=actor, lease_seconds=60) is not None

    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(claim, [f"dispatcher-{n}" for n in range(8)]))
    assert sum(wins) == 1
    assert event_names(database, job_id) == ["queued", "starting"]


def test_the_queue_goes_by_priority_and_then_by_arrival(database: Database) -> None:
    ids = [submit(database, priority=priority) for priority in (0, 5, 0, 5)]
    with database.read_session() as session:
        order = [job.id for job in jobs.next_queued(session, limit=10, now=datetime.now(UTC))]
    assert order == [ids[1], ids[3], ids[0], ids[2]]


def test_the_same_idempotency_key_submits_once(database: Database) -> None:
    with database.session() as session:
        first, created = requests.submit(session, toy_spec(), owner="ada", idempotency_key="k")
    with database.session() as session:
        second, again = requests.submit(session, toy_spec(), owner="ada", idempotency_key="k")
        other, other_created = requests.submit(session, toy_spec(), owner="bob", idempotency_key="k")
    assert (created, again, other_created) == (True, False, True)
    assert first.id == second.id != other.id
    with pytest.raises(IdempotencyMismatchError, match=first.id), database.session() as session:
        requests.submit(session, toy_spec(seed=1), owner="ada", idempotency_key="k")


def test_a_waiting_job_is_cancelled_at_once_and_a_second_cancel_changes_nothing(database: Database) -> None:
    job_id = submit(database)
    for _ in range(2):
        with database.session() as session:
            requests.cancel(session, jobs.lock(session, job_id), actor="ada")
    assert event_names(database, job_id) == ["queued", "cancelled"]


def test_an_ended_job_cannot_be_cancelled(database: Database) -> None:
    job_id = submit(database)
    with database.session() as session:
        attempts.refuse(session, jobs.lock(session, job_id), ReasonCode.CANNOT_FIT, "too large", actor="d")
    with pytest.raises(ConflictError, match="is failed"), database.session() as session:
        requests.cancel(session, jobs.lock(session, job_id), actor="ada")


def test_a_job_keeps_its_first_end(database: Database) -> None:
    job_id = running(database)
    end(database, job_id, "succeeded", result={"test_nll": 1.0})
    end(database, job_id, "failed")
    with database.read_session() as session:
        job = jobs.get(session, job_id)
    assert (job.state, job.result) == ("succeeded", {"test_nll": 1.0})


def test_a_run_that_dies_after_a_cancel_is_cancelled_and_not_failed(database: Database) -> None:
    job_id = running(database)
    with database.session() as session:
        requests.cancel(session, jobs.lock(session, job_id), actor="ada")
    with database.session() as session:
        attempts.lose(session, jobs.lock(session, job_id), ReasonCode.INTERNAL, "gone", actor="d", retry_seconds=5)
    with database.read_session() as session:
        job = jobs.get(session, job_id)
    assert (job.state, job.reason) == ("cancelled", None)


def test_deleting_takes_rows_and_files_of_an_ended_job_alone(database: Database, storage: Storage) -> None:
    job_id, other = running(database), submit(database)
    weights = f"{layout.artifact_folder(job_id, 1)}/weights.safetensors"
    storage.write(weights, b"w")
    # One whose name begins as the other's.
    storage.write(f"{job_id}x/weights.safetensors", b"w")
    with pytest.raises(ConflictError, match="cancel it first"), database.session() as session:
        requests.delete(session, jobs.lock(session, job_id), storage=storage)
    assert storage.read(weights) == b"w"
    end(database, job_id, "succeeded", result={"test_nll": 1.0})
    with database.session() as session:
        assert requests.delete(session, jobs.lock(session, job_id), storage=storage)
    assert storage.all_set_aside() == [job_id]
    storage.discard(layout.job_folder(job_id))
    assert storage.all_set_aside() == []
    assert list(storage.sizes()) == [f"{job_id}x"]
    with pytest.raises(NotFoundError), database.read_session() as session:
        jobs.get(session, job_id)
    assert event_names(database, job_id) == []
    assert event_names(database, other) == ["queued"]


def test_pages_of_jobs_neither_skip_nor_repeat(database: Database) -> None:
    ids = [submit(database) for _ in range(7)]
    seen: list[str] = []
    after = None
    while True:
        with database.read_session() as session:
            page = jobs.page(session, limit=3, after=after)
        seen += [job.id for job in page.items]
        queued_between: Job = page.items[0]
        assert queued_between.state == "queued"
        after = page.next_after
        if after is None:
            break
    assert seen == ids[::-1]


def test_of_several_labels_a_job_has_all(database: Database) -> None:
    both = submit(database, labels={"exp": "gradients", "team/of.x": "x"})
    one = submit(database, labels={"team/of.x": "x"})
    labels = [("team/of.x", "x"), ("exp", "gradients")]
    with database.read_session() as session:
        assert [job.id for job in jobs.page(session, labels=labels, limit=9).items] == [both]
        assert [job.id for job in jobs.page(session, labels=labels[:1], limit=9).items] == [one, both]
        assert jobs.page(session, labels=[("exp", "gradients"), ("exp", "x")], limit=9).items == []
