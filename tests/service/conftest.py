"""Fixtures of the dispatcher's tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from symadj.service.dispatcher import Dispatcher
from symadj.service.ray_jobs import RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database
from tests.service.ray_server import RayServer


@pytest.fixture
def ray() -> Iterator[RayServer]:
    """A Ray of one node with two CPUs."""
    server = RayServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(ray: RayServer, tmp_path: Path) -> Settings:
    """No pause before another attempt, no grace for a run that is to stop, spools on this machine."""
    return Settings(data=tmp_path, spool=tmp_path / "spool", cancel_grace_seconds=0, retry_seconds=0, api_url=ray.url)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The dispatcher's own clock."""
    return Clock()


@pytest.fixture
def dispatcher(database: Database, ray: RayServer, settings: Settings, clock: Clock) -> Iterator[Dispatcher]:
    """A dispatcher of these."""
    client = RayJobs(ray.url)
    dispatcher = Dispatcher(database, client, settings, clock=clock)
    yield dispatcher
    dispatcher.close()
    client.close()
