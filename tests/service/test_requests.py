"""What users may ask of a job, and when."""

from __future__ import annotations

import pytest

from symadj.service.errors import ConflictError, InvalidSpecError, TooManyRequestsError
from symadj.service.lifecycle import requests
from symadj.service.store import Database, jobs
from tests.service.lives import (
    ask,
    attempts_of,
    claim,
    end,
    event_names,
    read,
    running,
    send,
    submit,
    toy_spec,
)


def test_a_waiting_job_is_paused_at_once_and_keeps_its_place_when_it_is_resumed(database: Database) -> None:
    first, second = submit(database), submit(database)
    ask(database, first, "pause")
    assert read(database, first).state == "paused"
    ask(database, first, "pause")
    ask(database, first, "resume")
    now = read(database, second).created_at
    with database.read_session() as session:
        assert [job.id for job in jobs.next_queued(session, limit=2, now=now)] == [first, second]
    assert event_names(database, first) == ["queued", "paused", "queued"]


def test_a_run_pauses_when_it_says_so_and_its_job_goes_on_with_another_attempt(database: Database) -> None:
    job_id = running(database)
    ask(database, job_id, "pause")
    ask(database, job_id, "pause")
    assert (read(database, job_id).state, read(database, job_id).stop_requested) == ("pausing", "pause")
    with pytest.raises(ConflictError, match="wait until it is paused"):
        ask(database, job_id, "resume")
    end(database, job_id, "paused")
    assert (read(database, job_id).state, read(database, job_id).stop_requested) == ("paused", None)
    ask(database, job_id, "resume")
    claim(database, job_id)
    assert [attempt.outcome for attempt in attempts_of(database, job_id)] == ["paused", None]
    assert read(database, job_id).attempts_lost == 0


def test_a_job_that_is_pausing_may_come_to_its_end_first(database: Database) -> None:
    job_id = running(database)
    ask(database, job_id, "pause")
    end(database, job_id, "succeeded", result={"test_nll": 1.0})
    assert (read(database, job_id).state, read(database, job_id).stop_requested) == ("succeeded", None)


def test_a_cancel_overtakes_a_pause(database: Database) -> None:
    pausing, paused = running(database), submit(database)
    ask(database, pausing, "pause")
    ask(database, pausing, "cancel")
    assert (read(database, pausing).state, read(database, pausing).stop_requested) == ("pausing", "cancel")
    with pytest.raises(ConflictError, match="stopping for good"):
        ask(database, pausing, "pause")
    end(database, pausing, "paused")
    assert read(database, pausing).state == "cancelled"
    ask(database, paused, "pause")
    ask(database, paused, "cancel")
    assert read(database, paused).state == "cancelled"


@pytest.mark.parametrize("wish", ["pause", "resume", "ask_checkpoint"])
def test_of_an_ended_job_nothing_can_be_asked(database: Database, wish: str) -> None:
    job_id = running(database)
    end(database, job_id, "succeeded")
    with pytest.raises(ConflictError, match="is succeeded"):
        ask(database, job_id, wish)


def test_a_checkpoint_can_be_asked_of_a_run_alone_and_the_run_hears_of_it(database: Database) -> None:
    waiting, job_id = submit(database), submit(database)
    with pytest.raises(ConflictError, match="only a job that runs"):
        ask(database, waiting, "ask_checkpoint")
    token = claim(database, job_id).token
    assert send(database, token, 1).checkpoints_asked == 0
    ask(database, job_id, "ask_checkpoint")
    ask(database, job_id, "ask_checkpoint")
    answer = send(database, token, 1)
    assert (answer.checkpoints_asked, answer.stop) == (2, None)
    ask(database, job_id, "pause")
    with pytest.raises(ConflictError, match="writes one as it stops"):
        ask(database, job_id, "ask_checkpoint")


def test_an_owner_may_have_so_many_jobs_in_the_queue_and_is_told_the_numbers(database: Database) -> None:
    def post(owner: str, key: str | None = None) -> bool:
        with database.session() as session:
            return requests.submit(session, toy_spec(), owner=owner, idempotency_key=key, max_queued=2)[1]

    assert post("ada", "k")
    assert post("ada")
    with pytest.raises(TooManyRequestsError, match="has 2 jobs in the queue, and 2 may wait") as caught:
        post("ada")
    assert caught.value.extensions == {"queued": 2, "max_queued": 2}
    assert post("bob")
    assert not post("ada", "k"), "a repeated request is no new job"


def test_labels_are_changed_after_the_submission_and_the_job_is_found_by_the_new_ones(database: Database) -> None:
    job_id = submit(database, labels={"team": "x", "kept": "1"})
    with database.session() as session:
        requests.change(session, jobs.lock(session, job_id), name="other", labels={"team": "y", "kept": "1"}, actor="a")
    with database.read_session() as session:
        found = {pair: jobs.page(session, labels=[pair], limit=9).items for pair in (("team", "x"), ("team", "y"))}
        assert [job.id for job in found["team", "y"]] == [job_id]
        assert not found["team", "x"]
        assert [job.id for job in jobs.page(session, name="other", limit=9).items] == [job_id]
    with database.session() as session:
        requests.change(session, jobs.lock(session, job_id), name="other", labels={"team": "y", "kept": "1"}, actor="a")
    assert event_names(database, job_id) == ["queued", "changed"]
    labels = {f"label{number}": "" for number in range(33)}
    with database.session() as session:
        job = jobs.lock(session, job_id)
        with pytest.raises(InvalidSpecError, match="33 labels"):
            requests.change(session, job, name="other", labels=labels, actor="a")
