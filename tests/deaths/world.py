"""A job in a running service, seen from outside: its processes, what Ray and the store hold of it, how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from symadj.api.children import MARK
from symadj.api.client import Client
from symadj.api.schemas.jobs import JobRead
from symadj.service.contract.order import PLACE_VARIABLE
from symadj.service.contract.states import TERMINAL, JobState
from tests.e2e.conftest import Service, running_service

# Of every follower: no job here trains for longer, whatever befalls it.
MOST_SECONDS = 300.0
# The pause before the next attempt and the time after which a silent worker is lost: short, so that the tests are.
RETRY_SECONDS = 1.0
LEASE_SECONDS = 20.0
# The driver, and what Ray starts for it.
PARTS_OF_A_RUN = (
    "-m symadj.workers.run",
    *(f"ray::{actor}" for actor in ("RayTrainWorker", "TrainController", "DatasetManager", "PlacementGroupCleaner")),
    *(f"ray::{actor}" for actor in ("SynchronizationActor", "JobSupervisor")),
)
SHORT = {"SYMADJ_RETRY_SECONDS": str(RETRY_SECONDS), "SYMADJ_RUN_LEASE_SECONDS": str(LEASE_SECONDS)}


def toy(steps: int, workers: int = 2, **changes: Any) -> dict[str, Any]:
    """Return the spec of a training of many small steps."""
    return {
        "name": "disturbed",
        "data": {"kind": "toy", "name": "moons", "rows": 400, "batch_size": 16},
        "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [8]}},
        "solver": {"kind": "fixed", "steps": 2},
        "optimizer": {"kind": "adam", "learning_rate": 0.01},
        "stop": {"kind": "steps", "max_steps": steps},
        "resources": {"kind": "cpu", "workers": workers},
        "checkpoints": {"every_steps": 200},
        "evaluation": None,
    } | changes


def process_of(data: Path, job_id: str, source: str, attempt: int | None = None) -> psutil.Process:
    """Return the process that writes the spool of a source of a job's newest (or given) attempt."""
    number = attempt or max(int(path.name) for path in (data / "spool" / job_id).iterdir())
    spool = str(data / "spool" / job_id / str(number) / f"{source}.jsonl")
    for process in psutil.process_iter():
        try:
            if any(file.path == spool for file in process.open_files()):
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no process writes {spool}")


def run_processes(data: Path) -> list[psutil.Process]:
    """Return the processes of all runs of a service, dead ones that nobody awaited left out."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            # The first is of a Ray that the service started, the second of its runs on another one.
            environment = process.environ()
            ours = environment.get(MARK) == f"ray:{data}"
            ours = ours or environment.get(PLACE_VARIABLE, "").startswith(f"{data}/")
            if ours and any(part in words for part in PARTS_OF_A_RUN):
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass
class World:
    """A service and a client of it."""

    service: Service
    client: Client

    def submit(self, spec: dict[str, Any]) -> str:
        """Submit a job; return its id."""
        return self.client.submit(spec).id

    def process(self, job_id: str, source: str, attempt: int | None = None) -> psutil.Process:
        """Return the driver or a rank of a job's newest (or given) attempt."""
        return process_of(self.service.data, job_id, source, attempt)

    def ray(self, path: str) -> dict[str, Any]:
        """Ask Ray's HTTP interface."""
        environment = self.service.child("symadj.service.dispatcher").environ()
        token = environment.get("SYMADJ_RAY_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = environment["SYMADJ_RAY_ADDRESS"] + path
        answer: dict[str, Any] = httpx.get(url, headers=headers, timeout=30, trust_env=False).raise_for_status().json()
        return answer

    def follow(self, job_id: str, reached: Callable[[JobRead], bool], seconds: float = MOST_SECONDS) -> JobRead:
        """Wait until a job is as asked; long polls of its loss keep the pace. The API may be away meanwhile."""
        deadline = time.monotonic() + seconds
        after_seq = 0
        with self.client.patience(lambda _: None):
            while True:
                job = self.client.job(job_id)
                if reached(job):
                    return job
                if job.state in TERMINAL or time.monotonic() > deadline:
                    raise AssertionError(
                        f"job {job_id} is {job.state} at step {job.progress.step}:\n{self.tale(job_id)}"
                    )
                after_seq = self.client.metric(job_id, "loss", after_seq=after_seq, wait=1).next_after_seq

    def at_step(self, job_id: str, step: int) -> JobRead:
        """Wait until a running job has completed so many steps."""
        return self.follow(job_id, lambda job: job.state is JobState.RUNNING and job.progress.step >= step)

    def recovered(self, job_id: str, died_at: datetime, *, attempt: int = 1) -> float:
        """Wait for a step that an attempt, or a later one, made after a death; return the seconds from the death until
        that step can be read.
        """
        after_seq = 0
        self.follow(job_id, lambda job: job.state is JobState.SUCCEEDED or job.attempt >= attempt)
        with self.client.patience(lambda _: None):
            tried = {item.number: item.created_at for item in self.client.attempts(job_id).items}
            since = max(died_at, tried[attempt])
            deadline = time.monotonic() + MOST_SECONDS
            while time.monotonic() < deadline:
                page = self.client.metric(job_id, "loss", after_seq=after_seq, wait=1)
                if any(point.time > since for point in page.points):
                    return (now() - died_at).total_seconds()
                after_seq = page.next_after_seq
                job = self.client.job(job_id)
                assert page.points or job.state not in TERMINAL, f"{job.state}:\n{self.tale(job_id)}"
        raise AssertionError(f"no step after {since}:\n{self.tale(job_id)}")

    def ended(self, job_id: str, state: JobState = JobState.SUCCEEDED) -> JobRead:
        """Wait until a job has ended as it should."""
        return self.follow(job_id, lambda job: job.state is state)

    def tale(self, job_id: str) -> str:
        """Return a job's events, for a message."""
        events = self.client.events(job_id).items
        return "\n".join(f"{event.time:%H:%M:%S} {event.attempt} {event.name}: {event.message}" for event in events)

    def weights(self, job_id: str) -> str:
        """Return the SHA-256 of a job's weights."""
        (file,) = [item for item in self.client.artifacts(job_id).items if item.name == "weights.safetensors"]
        assert Path(file.path).stat().st_size == file.bytes
        return file.sha256


@contextmanager
def world(data: Path, **arguments: Any) -> Iterator[World]:
    """Run a service with short times until the block ends."""
    with running_service(data, **(SHORT | arguments)) as service, Client(service.url) as client:
        yield World(service, client)


def now() -> datetime:
    """Return the time, as records have it."""
    return datetime.now(UTC)


def wait_until(true: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """Wait for something that nobody tells of."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"still not so after {seconds:g} s: {what}"
        time.sleep(0.2)
