"""A real Trackio server, of an environment of its own: `make test-trackio`. Elsewhere there are no tests of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.servers import trackio_server
from symadj.service.sinks.trackio import TOKEN_VARIABLE

COMMAND = os.environ.get("SYMADJ_TEST_TRACKIO")
collect_ignore_glob = [] if COMMAND else ["test_*.py"]
TOKEN = "of-this-test"


@pytest.fixture(scope="session")
def trackio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of its interface, below the server's address."""
    assert COMMAND is not None
    folder = tmp_path_factory.mktemp("trackio")
    with trackio_server(folder, Path(COMMAND), TOKEN) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
