"""The whole service is stopped as one should, by SIGTERM or Ctrl-C, and started again on the same folder."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from symadj.service.contract.states import JobState
from symadj.service.settings import Settings
from symadj.service.store import Database, checkpoints, jobs, metrics
from tests.deaths.aftermath import check_aftermath
from tests.deaths.world import World, run_processes, toy, wait_until, world

pytestmark = [pytest.mark.ray, pytest.mark.deaths]

STEPS = 600
# But for those of a stop there is none before the end.
SPEC = toy(STEPS, workers=1, checkpoints={"every_steps": 100_000, "every_minutes": None, "keep_best": False})


def stop(running: World) -> None:
    """Stop a service, and wait until it and all that it had started have ended."""
    family = psutil.Process(running.service.process.pid).children(recursive=True)
    assert len(family) > 3
    ray_folder = running.service.ray_folder()
    assert ray_folder.exists()
    running.service.process.send_signal(signal.SIGTERM)
    assert running.service.process.wait(120) == 0
    wait_until(lambda: not run_processes(running.service.data), "no process of a run is left")
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert not ray_folder.exists()


@pytest.mark.quick_death
def test_a_stopped_service_costs_no_step_and_no_attempt(tmp_path: Path) -> None:
    with world(tmp_path) as before:
        in_peace = before.submit(SPEC)
        before.ended(in_peace)
        weights = before.weights(in_peace)
        job_id = before.submit(SPEC)
        before.at_step(job_id, 50)
        stop(before)
    store = Database(Settings(data=tmp_path).resolved_store_url())
    with store.read_session() as session:
        job, attempt = jobs.get(session, job_id), jobs.attempt(session, job_id, 1)
        series, checkpoint = metrics.one_series(session, job_id, "loss"), checkpoints.newest(session, job_id)
    store.close()
    assert (job.state, job.attempts_lost, job.not_before) == ("queued", 0, None)
    assert (attempt.outcome, attempt.reason) == ("stopped", "service_stopped")
    assert series is not None
    assert checkpoint is not None
    assert 50 <= checkpoint.step == series.last_step < STEPS
    assert checkpoint.cause == "stopped"
    with world(tmp_path) as after:
        check_aftermath(after, job_id, weights=weights, attempts=2)
        assert after.client.attempts(job_id).items[1].resumed_from_step == checkpoint.step
        assert after.client.job(job_id).attempts_lost == 0


def test_a_second_signal_does_not_wait_for_a_run_that_hangs(tmp_path: Path) -> None:
    with world(tmp_path, SYMADJ_STOP_GRACE_SECONDS="3600", SYMADJ_RUN_LEASE_SECONDS="3600") as before:
        job_id = before.submit(toy(100_000, workers=1))
        before.at_step(job_id, 300)
        before.process(job_id, "rank-0").suspend()
        before.service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: before.client.job(job_id).stop_requested is not None, "the run is asked to stop")
        assert before.service.process.poll() is None
        stop(before)
    with world(tmp_path) as after:
        after.follow(job_id, lambda job: job.attempt == 2 and job.state is JobState.RUNNING)
        wait_until(
            lambda: after.client.attempts(job_id).items[1].resumed_from_step is not None, "it goes on from a checkpoint"
        )
        first, second = after.client.attempts(job_id).items
        assert (first.outcome, first.reason) == ("stopped", "service_stopped")
        assert (second.resumed_from_step or 0) % 200 == 0, "the newest of those that were due"
        assert after.client.job(job_id).attempts_lost == 0


def test_a_run_that_has_not_begun_is_put_back(tmp_path: Path) -> None:
    with world(tmp_path) as before:
        job_id = before.submit(SPEC)
        wait_until(lambda: before.client.job(job_id).attempt == 1, "it is given to Ray")
        stop(before)
    with world(tmp_path) as after:
        after.ended(job_id)
        assert [item.outcome for item in after.client.attempts(job_id).items] == ["stopped", "succeeded"]
