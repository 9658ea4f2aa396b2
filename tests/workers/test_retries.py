"""A storage without room when the training is over and its weights are to be stored."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from symadj.service.contract.records import ArtifactRecord
from symadj.service.contract.states import StopReason
from symadj.workers.files import retries
from symadj.workers.files.artifacts import ArtifactFolder
from tests.workers.runs import KeepingOutbox, run

JOB: dict[str, Any] = {"evaluation": None, "stop": {"kind": "steps", "max_steps": 2}}


class FullStorage:
    """Takes no artifact for so many tries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tries: float, error: int = errno.ENOSPC) -> None:
        self.left, self.error = tries, error
        write = ArtifactFolder.write

        def try_to_write(folder: ArtifactFolder, name: str, media_type: str, content: bytes) -> ArtifactRecord:
            if self.left > 0:
                self.left -= 1
                raise OSError(self.error, os.strerror(self.error), name)
            return write(folder, name, media_type, content)

        monkeypatch.setattr(ArtifactFolder, "write", try_to_write)
        monkeypatch.setattr(retries, "_TRY_EVERY_S", 0.0)


def test_a_run_waits_for_room_for_its_weights_and_tells_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullStorage(monkeypatch, 3)
    outcome, outbox = run(tmp_path, **JOB)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert [record.name for record in outbox.of("artifact")] == ["weights.safetensors", "config.json", "README.md"]
    (event,) = [event for event in outbox.of("event") if event.name == "storage_full"]
    assert "No space left" in event.message


def test_a_run_that_waits_for_room_is_paused_and_then_has_only_its_weights_to_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FullStorage(monkeypatch, float("inf"))
    outcome, _ = run(tmp_path, KeepingOutbox(stop_at="storage_full", reason=StopReason.PAUSE), **JOB)
    assert outcome is not None
    assert outcome.state == "paused"
    storage.left = 0
    outcome, outbox = run(tmp_path, attempt=2, **JOB)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert outbox.of("step") == []


def test_a_run_that_found_no_room_in_time_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMADJ_STORAGE_PATIENCE_S", "0")
    FullStorage(monkeypatch, float("inf"))
    outcome, _ = run(tmp_path, **JOB)
    assert outcome is not None
    assert outcome.state == "failed"
    assert "no room on the storage" in outcome.message
    assert "make room" in outcome.data["advice"]


def test_a_storage_that_is_not_full_but_broken_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FullStorage(monkeypatch, 2, errno.EACCES)
    outcome, _ = run(tmp_path, **JOB)
    assert outcome is not None
    assert outcome.state == "failed"
    assert storage.left == 1
