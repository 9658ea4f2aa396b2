"""Deaths of small jobs."""

from __future__ import annotations

import resource

import pytest

from symadj.service.contract.states import JobState
from tests.deaths.aftermath import check_aftermath
from tests.deaths.conftest import Measure
from tests.deaths.world import World, now, toy, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.deaths]

# So many that a busy machine finds the process that must die before it has ended.
STEPS = 1600


def test_an_api_killed_during_a_cancel_is_heeded_all_the_same(shared: World, measure: Measure) -> None:
    job_id = shared.submit(toy(100_000))
    shared.at_step(job_id, 50)
    shared.client.cancel(job_id)
    died_at = now()
    shared.service.child("-m symadj.api").kill()
    shared.ended(job_id, JobState.CANCELLED)
    seconds = (now() - died_at).total_seconds()
    weights = check_aftermath(shared, job_id, state=JobState.CANCELLED, attempts=1)
    measure("kill -9 of the API during a cancel", "cancelled (after these seconds)", seconds, weights)


def test_a_disk_that_is_full_when_a_checkpoint_is_written_costs_that_checkpoint_alone(shared: World) -> None:
    job_id = shared.submit(toy(STEPS, checkpoints={"every_steps": 100}))
    shared.at_step(job_id, 50)
    rank_0 = shared.process(job_id, "rank-0")
    before = rank_0.rlimit(resource.RLIMIT_FSIZE)
    rank_0.rlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    wait_until(
        lambda: any(event.name == "checkpoint_failed" for event in shared.client.events(job_id).items),
        "a checkpoint was tried in vain",
    )
    rank_0.rlimit(resource.RLIMIT_FSIZE, before)
    check_aftermath(shared, job_id, attempts=1)
    assert shared.client.checkpoints(job_id).items[-1].step == STEPS
