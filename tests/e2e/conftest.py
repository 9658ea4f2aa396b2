"""The whole service, as `symadj serve` runs it, with a real Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from symadj.api.client import Client
from symadj.api.schemas.jobs import JobRead
from symadj.service.contract.states import TERMINAL, JobState
from tests.conftest import free_port

SYMADJ = Path(sys.executable).with_name("symadj")
JOB_SECONDS = 180
# In the environment that the service is started from: a secret of its API, another one, and what a run may want.
OF_THE_SHELL = {"SYMADJ_KEY_SECRET": "k" * 32, "SOMEBODYS_TOKEN": "s" * 32, "OF_THE_USER": "wanted"}


@dataclass
class Service:
    """A running ``symadj serve``."""

    url: str
    data: Path
    process: subprocess.Popen[str]
    said: str

    def child(self, words: str) -> psutil.Process:
        """Return the living child whose command line has these words."""
        living = [c for c in psutil.Process(self.process.pid).children() if c.status() != psutil.STATUS_ZOMBIE]
        (found,) = [c for c in living if words in " ".join(c.cmdline())]
        return found

    def ray_folder(self) -> Path:
        """Return the folder of its Ray."""
        words = self.child("--temp-dir=").cmdline()
        (found,) = [Path(word.removeprefix("--temp-dir=")) for word in words if word.startswith("--temp-dir=")]
        return found

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a ``symadj`` command against this service."""
        return subprocess.run(
            [SYMADJ, *command], env=os.environ | {"SYMADJ_URL": self.url}, capture_output=True, text=True, check=False
        )


def folder_with_packages_of_our_names(data: Path) -> Path:
    """Make a user's folder whose own `api`, `service` and `workers` must not be taken for ours."""
    folder = data / "somebody's project"
    for name in ("api", "service", "workers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('a package of the user was run')")
    return folder


@contextmanager
def running_service(
    data: Path,
    *,
    port: int | None = None,
    options: Sequence[str] = ("--cpus", "2"),
    within: Sequence[str] = (),
    **environment: str,
) -> Iterator[Service]:
    """Run the service until the block ends.

    Args:
        within: a command that runs the one that follows it.
    """
    port = port or free_port()
    process = subprocess.Popen(
        [*within, SYMADJ, "serve", "--port", str(port), "--data", str(data), *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder_with_packages_of_our_names(data),
        env=os.environ | environment,
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "stop" in line:
                break
        else:
            raise RuntimeError(f"the service did not start, status {process.wait()}")
        yield Service(f"http://127.0.0.1:{port}", data, process, said)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests of a module: a Ray takes its time to start."""
    data = tmp_path_factory.mktemp("service")
    settings = {"SYMADJ_PASS_ENVIRONMENT": "OF_THE_USER, NONE", "SYMADJ_CHECK_ON": "ray"}
    with running_service(data, **settings, **OF_THE_SHELL) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """A client of the service."""
    with Client(service.url) as http:
        yield http


@pytest.fixture
def until(client: Client) -> Callable[[str, Callable[[JobRead], bool]], JobRead]:
    """Follow a job until something is so."""
    return following(client)


def following(client: Client) -> Callable[[str, Callable[[JobRead], bool]], JobRead]:
    """Return what follows a job until something is so; long polls keep the pace, so that nothing sleeps here."""

    def follow(job_id: str, reached: Callable[[JobRead], bool]) -> JobRead:
        after_seq = 0
        for _ in range(JOB_SECONDS):
            job = client.job(job_id)
            if reached(job):
                return job
            if job.state in TERMINAL:
                break
            after_seq = client.metric(job_id, "loss", after_seq=after_seq, wait=1).next_after_seq
        history = "\n".join(f"{event.name}: {event.message}" for event in client.events(job_id).items)
        raise AssertionError(f"job {job_id} is {job.state} at step {job.progress.step}:\n{history}")

    return follow


def ended(job: JobRead) -> bool:
    """Whether a job succeeded."""
    return job.state is JobState.SUCCEEDED
