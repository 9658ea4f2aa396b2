"""Processes of a run and of the service are killed or stopped; Ray and the store live on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import psutil
import pytest

from symadj.service.contract.states import JobState
from tests.deaths.aftermath import check_aftermath
from tests.deaths.conftest import STEPS, Measure
from tests.deaths.world import LEASE_SECONDS, World, now, run_processes, toy, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.deaths]

RESUMED = "attempt 2 goes on from the last checkpoint"


@pytest.mark.parametrize("victim", ["driver", "rank-0", "rank-1"])
def test_a_killed_process_of_a_run_costs_the_steps_since_its_checkpoint(
    shared: World, undisturbed: str, measure: Measure, victim: str
) -> None:
    job_id = shared.submit(toy(STEPS))
    shared.at_step(job_id, 500)
    process = shared.process(job_id, victim)
    died_at = now()
    process.kill()
    seconds = shared.recovered(job_id, died_at, attempt=2)
    weights = check_aftermath(shared, job_id, weights=undisturbed, attempts=2)
    measure(f"kill -9 of the run's {victim}", RESUMED, seconds, weights)
    first, second = shared.client.attempts(job_id).items
    assert (first.outcome, first.reason) == ("lost", "worker_lost")
    assert second.resumed_from_step is not None
    assert second.resumed_from_step >= 400


def test_a_killed_api_disturbs_no_training(shared: World, undisturbed: str, measure: Measure) -> None:
    job_id = shared.submit(toy(STEPS))
    shared.at_step(job_id, 300)
    died_at = now()
    shared.service.child("-m symadj.api").kill()
    seconds = shared.recovered(job_id, died_at)
    weights = check_aftermath(shared, job_id, weights=undisturbed, attempts=1)
    measure("kill -9 of the API", "it is started again; the training runs on", seconds, weights)


def test_a_killed_dispatcher_disturbs_no_training(shared: World, undisturbed: str, measure: Measure) -> None:
    job_id = shared.submit(toy(STEPS))
    shared.at_step(job_id, 300)
    died_at = now()
    shared.service.child("symadj.service.dispatcher").kill()
    seconds = shared.recovered(job_id, died_at)
    weights = check_aftermath(shared, job_id, weights=undisturbed, attempts=1)
    measure("kill -9 of the dispatcher", "it is started again; the training runs on", seconds, weights)


def test_a_dispatcher_killed_right_after_its_claim_starts_the_job_once(
    shared: World, undisturbed: str, measure: Measure
) -> None:
    job_id = shared.submit(toy(STEPS))
    # Between the claim and Ray's answer there are some hundredths of a second: the store is asked without a pause.
    while shared.client.job(job_id).state is JobState.QUEUED:
        pass
    died_at = now()
    shared.service.child("symadj.service.dispatcher").kill()
    seconds = shared.recovered(job_id, died_at)
    weights = check_aftermath(shared, job_id, weights=undisturbed)
    measure("kill -9 of the dispatcher after a claim", "the next one settles it", seconds, weights)


def test_one_of_two_dispatchers_may_die(shared: World, undisturbed: str, measure: Measure) -> None:
    own = shared.service.child("symadj.service.dispatcher")
    second = subprocess.Popen(
        [sys.executable, "-m", "symadj.service.dispatcher"], env=own.environ(), stderr=subprocess.DEVNULL
    )
    try:
        job_ids = [shared.submit(toy(400, workers=1)) for _ in range(3)] + [shared.submit(toy(STEPS))]
        shared.follow(job_ids[0], lambda job: job.progress.step > 0)
        died_at = now()
        own.kill()
        seconds = shared.recovered(job_ids[3], died_at)
        for job_id in job_ids:
            shared.ended(job_id)
    finally:
        second.terminate()
        second.wait(60)
    for job_id in job_ids[:3]:
        check_aftermath(shared, job_id, attempts=1)
    weights = check_aftermath(shared, job_ids[3], weights=undisturbed, attempts=1)
    followed = "the other one goes on with four jobs (seconds: to the first step of the fourth)"
    measure("kill -9 of one of two dispatchers", followed, seconds, weights)


def test_an_api_killed_during_a_pause_is_heeded_all_the_same(shared: World, undisturbed: str, measure: Measure) -> None:
    job_id = shared.submit(toy(STEPS))
    shared.at_step(job_id, 500)
    shared.client.pause(job_id)
    died_at = now()
    shared.service.child("-m symadj.api").kill()
    shared.follow(job_id, lambda job: job.state is JobState.PAUSED)
    seconds = (now() - died_at).total_seconds()
    wait_until(lambda: not run_processes(shared.service.data), "a paused job holds no process")
    shared.client.resume(job_id)
    weights = check_aftermath(shared, job_id, weights=undisturbed, attempts=2)
    followed = "paused (after these seconds); resumed, attempt 2 goes on from its checkpoint"
    measure("kill -9 of the API during a pause", followed, seconds, weights)


@pytest.mark.parametrize("victim", ["rank-0", "rank-1"])
def test_a_worker_stopped_for_longer_than_its_lease_is_lost_and_does_no_harm_when_it_goes_on(
    shared: World, undisturbed: str, measure: Measure, victim: str
) -> None:
    job_id = shared.submit(toy(STEPS))
    shared.at_step(job_id, 500)
    process = shared.process(job_id, victim)
    stopped_at = now()
    process.suspend()
    try:
        seconds = shared.recovered(job_id, stopped_at, attempt=2)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    weights = check_aftermath(shared, job_id, weights=undisturbed, attempts=2)
    followed = f"lost after its lease of {LEASE_SECONDS:g} s; {RESUMED}"
    measure(f"{victim} stopped (SIGSTOP) for longer than its lease", followed, seconds, weights)
    first = shared.client.attempts(job_id).items[0]
    assert (first.outcome, first.reason) == ("lost", "worker_lost")


def test_a_worker_stopped_for_less_than_its_lease_is_waited_for(
    shared: World, undisturbed: str, measure: Measure
) -> None:
    job_id = shared.submit(toy(STEPS))
    shared.at_step(job_id, 300)
    process = shared.process(job_id, "rank-1")
    process.suspend()
    time.sleep(LEASE_SECONDS / 3)
    continued_at = now()
    process.resume()
    seconds = shared.recovered(job_id, continued_at)
    weights = check_aftermath(shared, job_id, weights=undisturbed, attempts=1)
    followed = f"the same attempt goes on (seconds: after the {LEASE_SECONDS / 3:.1f} s)"
    measure("rank-1 stopped (SIGSTOP) for a third of its lease", followed, seconds, weights)
