"""A real MLflow server, of an environment of its own: `make test-mlflow`. Elsewhere there are no tests of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.servers import mlflow_server

COMMAND = os.environ.get("SYMADJ_TEST_MLFLOW")
collect_ignore_glob = [] if COMMAND else ["test_*.py"]


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of its REST interface, below the server's address."""
    assert COMMAND is not None
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), Path(COMMAND)) as url, httpx.Client(base_url=url) as client:
        yield client
