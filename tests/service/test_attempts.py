"""What becomes of a job when one of its attempts ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.states import INTERRUPTIONS, ReasonCode
from symadj.service.lifecycle import attempts
from symadj.service.store import Database, events, jobs
from tests.service.lives import (
    RETRY_SECONDS,
    TIME,
    ask,
    attempts_of,
    checkpoint,
    claim,
    end,
    event_names,
    lose,
    read,
    running,
    send,
    step,
    submit,
)


@pytest.mark.parametrize("reason", ["worker_lost", "cluster_lost"])
def test_a_lost_attempt_is_followed_by_another_after_a_pause_that_doubles(database: Database, reason: str) -> None:
    job_id = running(database, max_attempts=4)
    for pause in (RETRY_SECONDS, 2 * RETRY_SECONDS, 4 * RETRY_SECONDS):
        before = datetime.now(UTC)
        end(database, job_id, "failed", reason=reason, message="gone")
        job = read(database, job_id)
        assert job.state == "queued"
        assert job.not_before is not None
        assert before <= job.not_before - timedelta(seconds=pause) <= datetime.now(UTC)
        with database.read_session() as session:
            assert jobs.next_queued(session, limit=1, now=job.updated_at) == []
            assert len(jobs.next_queued(session, limit=1, now=job.not_before)) == 1
        claim(database, job_id)
    end(database, job_id, "failed", reason=reason, message="gone")
    job = read(database, job_id)
    assert (job.state, job.reason, job.attempts_lost) == ("failed", reason, 4)
    assert job.message == "gone 4 attempts in a row were lost without a new checkpoint, and max_attempts is 4."
    assert [(a.outcome, a.reason, a.message) for a in attempts_of(database, job_id)[:3]] == [
        ("lost", reason, "gone")
    ] * 3


def test_a_new_checkpoint_starts_the_row_of_losses_afresh(database: Database) -> None:
    job_id = submit(database, max_attempts=2)
    for number in range(1, 5):
        send(database, claim(database, job_id).token, 1, checkpoint(10 * number, number))
        lose(database, job_id)
        assert read(database, job_id).state == "queued", "each attempt had brought the job on"
    claim(database, job_id)
    lose(database, job_id)
    job = read(database, job_id)
    assert (job.state, job.attempts_lost) == ("failed", 5)
    assert job.message == "gone 2 attempts in a row were lost without a new checkpoint, and max_attempts is 2."


def test_the_pause_has_a_limit() -> None:
    assert [attempts.pause_after(losses, 5.0) for losses in (1, 2, 6, 7, 10_000)] == [5, 10, 160, 300, 300]


def test_a_loss_is_an_event_with_its_cause_and_the_next_start(database: Database) -> None:
    job_id = running(database)
    lose(database, job_id)
    with database.read_session() as session:
        lost, queued = events.after(session, job_id, after_seq=0, limit=10)[-2:]
    not_before = read(database, job_id).not_before
    assert not_before is not None
    assert (lost.name, lost.message, lost.actor) == ("attempt_lost", "gone", "d")
    assert (lost.data["reason"], lost.data["next_start"]) == ("worker_lost", not_before.isoformat())
    assert queued.name == "queued"


@pytest.mark.parametrize("reason", sorted(set(ReasonCode) - INTERRUPTIONS))
def test_whatever_a_job_failed_of_it_says_what_to_do(database: Database, reason: ReasonCode) -> None:
    job_id = submit(database, max_attempts=1)
    claim(database, job_id)
    end(database, job_id, "failed", reason=reason)
    assert read(database, job_id).state == "failed"
    assert len((read(database, job_id).reason_data or {})["advice"]) > 20


@pytest.mark.parametrize(
    "reason", ["diverged", "solver_stuck", "out_of_memory", "data_error", "plugin_error", "internal"]
)
def test_what_would_happen_again_is_not_tried_again(database: Database, reason: str) -> None:
    job_id = running(database)
    end(database, job_id, "failed", reason=reason, message="at step 7", data={"step": 7})
    job = read(database, job_id)
    assert (job.state, job.reason, job.attempts_lost) == ("failed", reason, 0)
    assert job.reason_data is not None
    assert job.reason_data["step"] == 7


def test_a_job_that_ran_out_of_memory_is_told_its_measured_peaks(database: Database) -> None:
    job_id = submit(database)
    peaks = {"host_idle_bytes": 1, "host_peak_bytes": 50, "device_idle_bytes": None, "device_peak_bytes": None}
    record = {"kind": "memory", "time": TIME, "step": 1, "rank": 0, "phase": "backward", **peaks}
    send(database, claim(database, job_id).token, 1, record)
    end(database, job_id, "failed", reason="out_of_memory", data={"advice": "less"})
    told = {"host_peak_bytes": 50, "device_peak_bytes": None, "advice": "less"}
    assert read(database, job_id).reason_data == told


def test_a_job_that_ran_out_of_memory_is_tried_again_with_less_as_often_as_it_says(
    database: Database,
) -> None:
    job_id = submit(database, resources={"kind": "cpu", "out_of_memory_retries": 2})
    for number in range(3):
        assert claim(database, job_id).out_of_memory == number
        end(database, job_id, "failed", reason="out_of_memory", message="at step 7")
        assert read(database, job_id).state == ("queued" if number < 2 else "failed")
    job = read(database, job_id)
    assert (job.reason, job.attempts_lost) == ("out_of_memory", 2)


def test_workers_that_do_not_fit_any_more_are_a_loss_only_once_they_did(database: Database) -> None:
    never, once = submit(database), running(database)
    claim(database, never)
    for job_id in (never, once):
        end(database, job_id, "failed", reason="cannot_fit")
    assert read(database, never).state == "failed"
    assert (read(database, once).state, read(database, once).attempts_lost) == ("queued", 1)


@pytest.mark.parametrize(
    ("wish", "state", "reason"),
    [("cancel", "cancelled", None), ("pause", "paused", None), ("timeout", "failed", "timeout")],
)
@pytest.mark.parametrize("by", ["a driver's word", "a dispatcher's finding"])
def test_a_wish_is_met_although_the_attempt_was_lost(
    database: Database, wish: str, state: str, reason: str | None, by: str
) -> None:
    job_id = running(database, timeout_minutes=1)
    if wish == "timeout":
        with database.session() as session:
            attempts.ask_timeout(session, jobs.lock(session, job_id), actor="d", message="over")
    else:
        ask(database, job_id, wish)
    if by == "a driver's word":
        end(database, job_id, "failed", reason="worker_lost", message="gone")
    else:
        lose(database, job_id)
    job = read(database, job_id)
    assert (job.state, job.reason, job.stop_requested) == (state, reason, None)
    assert attempts_of(database, job_id)[0].outcome == state


def test_a_job_out_of_time_fails_with_advice_and_a_cancel_may_overtake_it(database: Database) -> None:
    late, cancelled = running(database, timeout_minutes=1), running(database, timeout_minutes=1)
    for job_id in (late, cancelled):
        with database.session() as session:
            attempts.ask_timeout(session, jobs.lock(session, job_id), actor="d", message="over")
    ask(database, cancelled, "cancel")
    for job_id in (late, cancelled):
        end(database, job_id, "failed", reason="timeout", message="stopped at step 5")
    job = read(database, late)
    assert (job.state, job.reason) == ("failed", "timeout")
    assert job.message == "The job is over its timeout_minutes 1. stopped at step 5"
    assert "longer timeout_minutes" in (job.reason_data or {})["advice"]
    assert read(database, cancelled).state == "cancelled"


def test_a_job_that_is_refused_while_it_waits_for_its_next_attempt_waits_no_more(database: Database) -> None:
    job_id = running(database)
    lose(database, job_id)
    assert read(database, job_id).not_before is not None
    with database.session() as session:
        attempts.refuse(session, jobs.lock(session, job_id), ReasonCode.CANNOT_FIT, "too large", actor="d")
    job = read(database, job_id)
    assert (job.state, job.reason, job.not_before) == ("failed", "cannot_fit", None)


def test_a_run_that_paused_unasked_is_a_fault_and_does_not_hang(database: Database) -> None:
    job_id = running(database)
    end(database, job_id, "paused")
    assert (read(database, job_id).state, read(database, job_id).reason) == ("failed", "internal")


@pytest.mark.parametrize(("wish", "state"), [(None, "queued"), ("cancel", "cancelled"), ("pause", "paused")])
def test_a_job_that_ray_did_not_take_loses_nothing(database: Database, wish: str | None, state: str) -> None:
    job_id = submit(database)
    claim(database, job_id)
    if wish is not None:
        ask(database, job_id, wish)
    with database.session() as session:
        attempts.put_back(session, jobs.lock(session, job_id), actor="d", message="not now")
    assert (read(database, job_id).state, read(database, job_id).attempts_lost) == (state, 0)


def test_the_first_end_of_an_attempt_counts_and_who_is_left_of_it_is_told_to_stop(database: Database) -> None:
    job_id = submit(database)
    token = claim(database, job_id).token
    send(database, token, 1, step(1))
    lose(database, job_id)
    outcome = OutcomeRecord.model_validate({"time": TIME, "state": "succeeded"}).model_dump(mode="json")
    assert send(database, token, 1, outcome, source="driver").stop == "cancel"
    assert read(database, job_id).state == "queued"
    claim(database, job_id)
    end(database, job_id, "succeeded")
    assert event_names(database, job_id)[-3:] == ["starting", "running", "succeeded"]


def stop_service(database: Database, job_id: str) -> None:
    """Ask the job's run to stop, as a dispatcher does when the whole service is stopped."""
    with database.session() as session:
        attempts.ask_service_stop(session, jobs.lock(session, job_id), actor="dispatcher")


@pytest.mark.parametrize("how", ["it paused", "it died", "it had not started"])
def test_a_stop_of_the_service_ends_an_attempt_and_loses_none(database: Database, how: str) -> None:
    job_id = submit(database, max_attempts=1)
    token = claim(database, job_id).token
    stop_service(database, job_id)
    assert read(database, job_id).stop_requested == "service_stopped"
    if how == "it paused":
        assert send(database, token, 1, step(7)).stop == "pause", "which every version of a run understands"
        end(database, job_id, "paused", message="paused after step 7")
    elif how == "it died":
        lose(database, job_id)
    else:
        with database.session() as session:
            attempts.put_back(session, jobs.lock(session, job_id), actor="d", message="")
    job, (attempt,) = read(database, job_id), attempts_of(database, job_id)
    assert (job.state, job.stop_requested, job.not_before, job.attempts_lost) == ("queued", None, None, 0)
    assert (attempt.outcome, attempt.reason) == ("stopped", "service_stopped")
    with database.read_session() as session:
        stopped, queued = events.after(session, job_id, after_seq=0, limit=100)[-2:]
    assert (stopped.name, stopped.data["reason"], queued.name) == ("attempt_stopped", "service_stopped", "queued")
    assert stopped.message.startswith("The service was stopped. ")


@pytest.mark.parametrize(("wish", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_what_the_user_asks_for_goes_before_a_stop_of_the_service(database: Database, wish: str, state: str) -> None:
    asked_before, asked_after = running(database), running(database)
    ask(database, asked_before, wish)
    for job_id in (asked_before, asked_after):
        stop_service(database, job_id)
    ask(database, asked_after, wish)
    for job_id in (asked_before, asked_after):
        end(database, job_id, "paused")
        assert read(database, job_id).state == state


def test_a_run_whose_node_is_drained_goes_on_elsewhere_unless_it_was_cancelled(database: Database) -> None:
    job_id, cancelled = submit(database, max_attempts=1), submit(database)
    for each in (job_id, cancelled):
        claim(database, each)
    ask(database, cancelled, "cancel")
    for each in (job_id, cancelled):
        end(database, each, "paused", reason="node_drained", message="stopped after step 7", data={"step": 7})
    job, (attempt,) = read(database, job_id), attempts_of(database, job_id)
    assert (job.state, job.attempts_lost) == ("queued", 0)
    assert (attempt.outcome, attempt.reason, attempt.message) == ("stopped", "node_drained", "stopped after step 7")
    assert job.not_before is not None, "Ray takes the node for alive for a while"
    assert read(database, cancelled).state == "cancelled"
