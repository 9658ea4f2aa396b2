"""The whole service is killed, and started again on the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deaths.aftermath import check_aftermath
from tests.deaths.conftest import STEPS, Measure
from tests.deaths.world import now, run_processes, toy, wait_until, world

pytestmark = [pytest.mark.ray, pytest.mark.deaths]


def test_a_job_outlives_the_whole_service(tmp_path: Path, undisturbed: str, measure: Measure) -> None:
    with world(tmp_path) as before:
        job_id = before.submit(toy(STEPS))
        before.at_step(job_id, 500)
        died_at = now()
        before.service.process.kill()
        before.service.process.wait()
    wait_until(lambda: not run_processes(tmp_path), "the kernel ended what the service had started")
    with world(tmp_path) as after:
        seconds = after.recovered(job_id, died_at, attempt=2)
        weights = check_aftermath(after, job_id, weights=undisturbed, attempts=2)
        followed = "`symadj serve` was started again at once; attempt 2 goes on from the last checkpoint"
        measure("kill -9 of `symadj serve`", followed, seconds, weights)
