"""What has to be so after a death, whatever died."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.settings import Settings
from symadj.service.store import blocks
from symadj.service.store.tables import Attempt, Job
from tests.deaths.world import World, run_processes, wait_until

PHASES = ("forward", "backward", "optimizer")


def check_aftermath(
    world: World,
    job_id: str,
    *,
    state: JobState = JobState.SUCCEEDED,
    weights: str | None = None,
    attempts: int | None = None,
    workers: int | None = None,
    store_url: str | None = None,
) -> str | None:
    """Wait for a job's end, and check that nothing is missing, nothing is there twice, and nothing is left over.

    Returns the SHA-256 of the job's weights, None where it left none.

    Args:
        world: the service; no other job of it is active.
        job_id: the job that was disturbed.
        state: in which it is to end.
        weights: SHA-256 of an undisturbed run's weights, where the job's are to be the same.
        attempts: how many it is to have taken.
        workers: ranks whose memory is known of every step; None: all of the spec.
        store_url: of the store, where it is not SQLite in the data folder.
    """
    data = world.service.data
    job = world.ended(job_id, state)
    tale = world.tale(job_id)
    if attempts is not None:
        assert job.attempt == attempts, tale
    if weights is not None:
        assert world.weights(job_id) == weights, tale
    tried = world.client.attempts(job_id).items
    assert [item.number for item in tried] == list(range(1, job.attempt + 1))
    assert all(item.finished_at is not None and item.outcome is not None for item in tried), tried

    wait_until(lambda: not (data / "spool" / job_id).exists(), f"the spools of {job_id} are delivered")
    wait_until(lambda: not run_processes(data), "no process of a run is left")
    wait_until(lambda: not placement_groups(world), "no placement group is left")
    assert left_over_files(data, job_id) == []

    url = store_url or Settings(data=data).resolved_store_url()
    assert stuck(url) == []
    last = job.spec["stop"]["max_steps"] if state is JobState.SUCCEEDED else job.progress.step
    assert missing_and_doubled(url, job_id, last, workers or job.spec["resources"]["workers"]) == [], tale
    return world.weights(job_id) if state is JobState.SUCCEEDED else None


def placement_groups(world: World) -> list[str]:
    """Return Ray's placement groups that hold or await something."""
    groups = world.ray("/api/v0/placement_groups?detail=true&limit=10000")["data"]["result"]["result"]
    return [group["placement_group_id"] for group in groups if group["state"] != "REMOVED"]


def left_over_files(data: Path, job_id: str) -> list[Path]:
    """Return files of a job that were not meant to stay."""
    found = (data / "jobs" / job_id).rglob("*")
    return [path for path in found if path.name.startswith(".making-") or path.name.endswith(".tmp")]


def stuck(store_url: str) -> list[str]:
    """Return what the store holds as if it were still going on: jobs, attempts, leases."""
    engine = sa.create_engine(store_url)
    with engine.connect() as connection:
        active = sa.select(Job.id, Job.state).where(Job.state.not_in([state.value for state in TERMINAL]))
        jobs = [f"{row.id} is {row.state}" for row in connection.execute(active)]
        open_attempts = sa.select(Attempt.submission_id).where(
            sa.or_(
                Attempt.finished_at.is_(None),
                Attempt.outcome.is_(None),
                Attempt.lease_token.is_not(None),
                Attempt.lease_expires_at.is_not(None),
            )
        )
        attempts = [f"{submission_id} is open" for submission_id in connection.scalars(open_attempts)]
    engine.dispose()
    return jobs + attempts


def missing_and_doubled(store_url: str, job_id: str, last_step: int, workers: int) -> list[str]:
    """Return where the series of a job are not exactly the steps 1 to the last, once each."""
    engine = sa.create_engine(store_url)
    names = {"metric/loss": "loss"}
    for rank in range(workers):
        names |= {f"memory/{rank}/{phase}": f"memory of rank {rank}, {phase}" for phase in PHASES}
    faults = []
    with Session(engine) as session:
        for series, name in names.items():
            (steps,) = blocks.whole(session, job_id, series, "steps")
            faults += _faults(name, Counter(steps.tolist()), last_step)
    engine.dispose()
    return faults


def _faults(name: str, counts: Counter[int], last_step: int) -> list[str]:
    wanted = set(range(1, last_step + 1))
    faults = {
        "missing": sorted(wanted - counts.keys()),
        "beyond the last": sorted(counts.keys() - wanted),
        "doubled": sorted(step for step, count in counts.items() if count > 1),
    }
    return [f"{name}: {len(steps)} steps {what}, from {steps[0]}" for what, steps in faults.items() if steps]
