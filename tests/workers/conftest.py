"""What the tests of a run share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from symadj.workers import attempt
from tests.workers.ingest import IngestServer


@pytest.fixture
def ingest() -> Iterator[IngestServer]:
    server = IngestServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def unplanned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what would take half of the time of the many small runs here: the plan of their memory."""
    if "planned" not in request.keywords:
        monkeypatch.setattr(attempt, "make_plan", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def spool_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"
