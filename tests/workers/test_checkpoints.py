"""Checkpoints: when they are written, what is kept of them, and going on from one to the same bits."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symadj.service.contract.states import CheckpointCause, StopReason
from symadj.workers.files.checkpoints import CheckpointFolder, CorruptCheckpointError, StoredCheckpoint
from symadj.workers.model.build import build_flow
from symadj.workers.training.checkpointer import Checkpointer
from symadj.workers.training.state import TrainingState
from tests.workers.loading import load_data
from tests.workers.runs import KeepingOutbox, full_disk, order, rank_run, run

JOB: dict[str, Any] = {
    "stop": {"kind": "steps", "max_steps": 12},
    "ema": {"decay": 0.9},
    "evaluation": {"validate_every_steps": 5, "mixture_components": 0, "plots": False},
    "checkpoints": {"every_steps": 3, "keep_last": 100},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sums of the files of weights that a run ends with when nothing happens to it."""
    return weights(run(tmp_path_factory.mktemp("undisturbed"), **JOB)[1])


def weights(outbox: KeepingOutbox) -> dict[str, str]:
    return {a.name: a.sha256 for a in outbox.of("artifact") if a.name.startswith("weights")}


def stored(storage: Path | str) -> list[StoredCheckpoint]:
    return CheckpointFolder(str(storage), "job-1").stored()


def files(folder: CheckpointFolder) -> list[str]:
    """All names in the folder but those that only tell which attempt has begun."""
    return [name for name in folder.storage.children(folder.path) if not name.startswith(".begun-")]


def resumed_from(outbox: KeepingOutbox) -> int | None:
    steps = [record.step for record in outbox.of("resumed")]
    return steps[0] if steps else None


# What a bucket does differently, other tests find, too.
in_a_bucket_where_there_is_time = pytest.mark.parametrize(
    "place", ["folder", pytest.param("bucket", marks=pytest.mark.slow)], indirect=True
)


@pytest.mark.parametrize(
    ("place", "lost_after", "resumed"),
    [
        *(("folder", lost_after, resumed) for lost_after, resumed in ((1, None), (4, 3), (6, 6), (11, 10))),
        *(("bucket", lost_after, resumed) for lost_after, resumed in ((1, None), (6, 6))),
    ],
    indirect=["place"],
)
def test_a_lost_run_goes_on_from_its_last_checkpoint_to_the_weights_of_one_never_disturbed(
    place: str, undisturbed: dict[str, str], lost_after: int, resumed: int | None
) -> None:
    # An attempt that is superseded stops where it is and stores nothing more: as one that was killed.
    outcome, _ = run(place, KeepingOutbox(superseded_after=lost_after), **JOB)
    assert outcome is None
    outcome, outbox = run(place, attempt=2, **JOB)
    assert outcome is not None
    assert resumed_from(outbox) == resumed
    steps = [record.step for record in outbox.of("step") if "loss" in record.metrics]
    assert steps == list(range((resumed or 0) + 1, 13))
    told = [record.name for record in outbox.of("checkpoint")]
    if resumed is not None:
        assert told.pop(0) == f"step-{resumed:09d}-attempt-1", "its writer may have died before it told of it"
    assert all(name.endswith("attempt-2") for name in told), "what is stored is not stored again"
    assert weights(outbox) == undisturbed


@pytest.mark.parametrize(
    ("place", "stop_after"), [("folder", 2), ("folder", 5), ("folder", 12), ("bucket", 5)], indirect=["place"]
)
def test_a_paused_run_stores_its_last_step_and_goes_on_there(
    place: str, undisturbed: dict[str, str], stop_after: int
) -> None:
    outcome, paused = run(place, KeepingOutbox(stop_after=stop_after, reason=StopReason.PAUSE), **JOB)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("paused", None)
    assert stored(place)[-1].step == stop_after
    outcome, outbox = run(place, attempt=2, **JOB)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert resumed_from(outbox) == stop_after
    validated = [r.step for r in [*paused.of("step"), *outbox.of("step")] if "validation_nll" in r.metrics]
    assert validated == [5, 10, 12], "each validation once, wherever the pause came"
    assert weights(outbox) == undisturbed


@in_a_bucket_where_there_is_time
def test_a_run_paused_in_its_evaluation_is_evaluated_without_training_again(
    place: str, undisturbed: dict[str, str]
) -> None:
    outcome, _ = run(place, KeepingOutbox(stop_at="training_finished", reason=StopReason.PAUSE), **JOB)
    assert outcome is not None
    assert outcome.state == "paused"
    outcome, outbox = run(place, attempt=2, **JOB)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert outbox.of("step") == []
    assert weights(outbox) == undisturbed


def test_a_run_out_of_time_fails_with_a_checkpoint_and_advice(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, KeepingOutbox(stop_after=4, reason=StopReason.TIMEOUT), **JOB)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", "timeout")
    assert "timeout_minutes" in outcome.data["advice"]
    assert stored(tmp_path)[-1].step == 4


def path_of(checkpoint: StoredCheckpoint, name: str) -> str:
    (found,) = [file for file in checkpoint.manifest()["files"] if file.endswith(name)]
    return f"{checkpoint.path}/{found}"


def flip_a_byte(checkpoint: StoredCheckpoint) -> None:
    path = path_of(checkpoint, "training.pt")
    content = bytearray(checkpoint.storage.read(path))
    content[len(content) // 2] ^= 1
    checkpoint.storage.write(path, bytes(content))


def cut_short(checkpoint: StoredCheckpoint) -> None:
    path = path_of(checkpoint, "weights.safetensors")
    checkpoint.storage.write(path, checkpoint.storage.read(path)[:-1])


def lose_a_file(checkpoint: StoredCheckpoint) -> None:
    checkpoint.storage.remove_file(path_of(checkpoint, "weights.safetensors"))


def garble_the_manifest(checkpoint: StoredCheckpoint) -> None:
    checkpoint.storage.write(f"{checkpoint.path}/manifest.json", b'{"format": 1')


@pytest.mark.parametrize(
    ("place", "damage"),
    [
        *(("folder", damage) for damage in (flip_a_byte, cut_short, lose_a_file, garble_the_manifest)),
        ("bucket", flip_a_byte),
        pytest.param("bucket", lose_a_file, marks=pytest.mark.slow),
    ],
    indirect=["place"],
)
def test_a_corrupt_checkpoint_is_told_and_the_one_before_it_used(
    place: str, undisturbed: dict[str, str], damage: Any
) -> None:
    run(place, KeepingOutbox(superseded_after=7), **JOB)
    assert [checkpoint.step for checkpoint in stored(place)] == [3, 5, 6]
    damage(stored(place)[-1])
    _, outbox = run(place, attempt=2, **JOB)
    (event,) = [event for event in outbox.of("event") if event.name == "checkpoint_corrupt"]
    assert event.data["checkpoint"] == "step-000000006-attempt-1"
    assert resumed_from(outbox) == 5
    assert weights(outbox) == undisturbed


@in_a_bucket_where_there_is_time
def test_without_a_whole_checkpoint_the_run_starts_afresh(place: str, undisturbed: dict[str, str]) -> None:
    run(place, KeepingOutbox(superseded_after=7), **JOB)
    for checkpoint in stored(place):
        flip_a_byte(checkpoint)
    _, outbox = run(place, attempt=2, **JOB)
    assert [event.name for event in outbox.of("event")].count("checkpoint_corrupt") == 3
    assert resumed_from(outbox) is None
    assert weights(outbox) == undisturbed


@in_a_bucket_where_there_is_time
def test_a_corrupt_checkpoint_takes_the_place_of_no_good_one_and_is_removed_when_there_is_a_new_one(
    place: str,
) -> None:
    changes = JOB | {"checkpoints": {"every_steps": 3, "keep_last": 2, "keep_best": False}}
    run(place, KeepingOutbox(superseded_after=10), **changes)
    assert [checkpoint.step for checkpoint in stored(place)] == [6, 9]
    flip_a_byte(stored(place)[-1])
    # Its first checkpoint is of a step before the corrupt one's.
    often = JOB | {"checkpoints": {"every_steps": 1, "keep_last": 2, "keep_best": False}}
    _, outbox = run(place, KeepingOutbox(superseded_after=1), attempt=2, **often)
    told = [(record.step, record.removed) for record in outbox.of("checkpoint")]
    assert told == [(6, []), (7, ["step-000000009-attempt-1"])], "the one that it goes on from, and its own"
    assert [checkpoint.step for checkpoint in stored(place)] == [6, 7]
    _, outbox = run(place, attempt=3, **changes)
    assert resumed_from(outbox) == 7


@in_a_bucket_where_there_is_time
def test_a_checkpoint_that_goes_bad_after_it_was_found_whole_is_told_and_the_one_before_it_used(
    place: str, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, KeepingOutbox(superseded_after=7), **JOB)
    verify, newest = StoredCheckpoint.verify, stored(place)[-1]

    def verify_and_lose(checkpoint: StoredCheckpoint) -> None:
        verify(checkpoint)
        if checkpoint == newest:
            lose_a_file(checkpoint)

    monkeypatch.setattr(StoredCheckpoint, "verify", verify_and_lose)
    outcome, outbox = run(place, attempt=2, **JOB)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert resumed_from(outbox) == 5
    assert weights(outbox) == undisturbed


def test_an_attempt_that_was_given_up_stores_and_removes_nothing_once_the_next_one_has_begun(place: str) -> None:
    changes = JOB | {"checkpoints": {"keep_last": 1}}
    first = order(place, **changes)
    data = load_data(first.spec.data)
    state = TrainingState(first.spec, build_flow(first.spec, data.dim))
    outbox = KeepingOutbox()
    given_up = Checkpointer(rank_run(first, outbox), data)
    state.step = 3
    given_up.save(state, CheckpointCause.STEPS)
    next_one = Checkpointer(rank_run(order(place, attempt=2, **changes), KeepingOutbox()), data)
    state.step = 6
    given_up.save(state, CheckpointCause.STEPS)
    (event,) = outbox.of("event")
    assert "attempt 2 has begun" in event.message
    assert files(given_up.folder) == ["step-000000003-attempt-1"]
    assert next_one.newest() == given_up.newest() == stored(place)[0]


def test_files_and_the_folders_that_lead_to_them_are_on_the_disk_before_a_checkpoint_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def remember(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", remember)
    job = order(tmp_path / "storage", **JOB)
    data = load_data(job.spec.data)
    state = TrainingState(job.spec, build_flow(job.spec, data.dim))
    outbox = KeepingOutbox()
    Checkpointer(rank_run(job, outbox), data).save(state, CheckpointCause.STEPS)
    assert {"weights.safetensors", "training.pt", "manifest.json", "checkpoints", "job-1", "storage"} <= set(synced)
    making, folder = synced[-2:]
    assert making.startswith(".making-"), "the names in it before it gets its own"
    assert folder == "checkpoints"


@in_a_bucket_where_there_is_time
def test_what_an_attempt_stored_counts_for_more_than_later_steps_of_one_before_it(place: str) -> None:
    folder = CheckpointFolder(place, "job-1")
    job = order(place, **JOB)
    state = TrainingState(job.spec, build_flow(job.spec, 2))
    for attempt, step in ((1, 3), (1, 9), (2, 6)):
        state.step = step
        folder.write(state.state_dict(), attempt=attempt, cause=CheckpointCause.STEPS, about={})
    assert [(checkpoint.attempt, checkpoint.step) for checkpoint in folder.stored()] == [(1, 3), (1, 9), (2, 6)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [(slice(0, 290), "number of training rows"), (slice(None, None, -1), "other values"), (slice(None), None)],
)
def test_a_run_does_not_go_on_with_other_data_than_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: slice, words: str | None
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    values = np.random.default_rng(0).standard_normal((300, 2))
    job = JOB | {"data": {"kind": "file", "path": "rows.npy", "batch_size": 32}}
    np.save(tmp_path / "rows.npy", values)
    run(tmp_path, KeepingOutbox(superseded_after=7), **job)
    np.save(tmp_path / "rows.npy", values[rows])
    outcome, _ = run(tmp_path, attempt=2, **job)
    assert outcome is not None
    if words is None:
        assert outcome.state == "succeeded"
    else:
        assert outcome.reason == "data_error"
        assert words in outcome.message
        assert "step-000000006-attempt-1" in outcome.message


def test_a_job_that_was_to_go_on_from_another_does_not_start_afresh_without_it(place: str) -> None:
    outcome, _ = run(place, **JOB | {"parent": {"job": "job-0"}})
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", "data_error")
    assert "another parent.step" in outcome.message


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_removed(place: str) -> None:
    folder = CheckpointFolder(place, "job-1")
    folder.storage.write(f"{folder.path}/.making-abc/weights.safetensors", b"half")
    folder.storage.write(f"{folder.path}/step-000000003-attempt-1/abc/weights.safetensors", b"half")
    outbox = KeepingOutbox()
    job = order(place, **JOB)
    assert Checkpointer(rank_run(job, outbox), load_data(job.spec.data)).newest() is None
    assert files(folder) == []


def test_the_newest_ones_and_the_best_are_kept_and_the_rest_is_removed_and_told(place: str) -> None:
    changes = JOB | {"checkpoints": {"every_steps": 1, "keep_last": 2}}
    _, outbox = run(place, **changes)
    records = outbox.of("checkpoint")
    best = [record for record in records if record.cause == "best"][-1]
    kept = {checkpoint.name for checkpoint in stored(place)}
    assert kept == {"step-000000011-attempt-1", "step-000000012-attempt-1", best.name}
    told: list[str] = []
    for record in records:
        # At 5, 10 and 12 the same step is stored again once it is validated.
        told = [name for name in [*told, record.name] if name not in record.removed]
    assert set(told) == kept
    assert best.validation_nll == min(outbox.series("validation_nll"))


def test_a_checkpoint_is_written_when_the_api_asks(tmp_path: Path) -> None:
    outbox = KeepingOutbox()
    outbox.checkpoints_asked = 1
    run(tmp_path, outbox, **JOB | {"checkpoints": {"keep_best": False}})
    assert [(record.step, record.cause) for record in outbox.of("checkpoint")] == [(1, "asked"), (12, "finished")]


def test_minutes_are_counted_from_the_last_checkpoint(tmp_path: Path) -> None:
    _, outbox = run(tmp_path, **JOB | {"checkpoints": {"every_minutes": 1e-9, "keep_best": False}})
    assert [record.cause for record in outbox.of("checkpoint")][:11] == ["minutes"] * 11


@in_a_bucket_where_there_is_time
def test_a_record_tells_the_size_and_the_sum_of_what_is_stored(place: str) -> None:
    _, outbox = run(place, **JOB)
    record, checkpoint = outbox.of("checkpoint")[-1], stored(place)[-1]
    assert record.name == checkpoint.name
    paths = [path_of(checkpoint, "weights.safetensors"), path_of(checkpoint, "training.pt")]
    content = checkpoint.storage.read(f"{checkpoint.path}/manifest.json")
    assert record.bytes == sum(map(checkpoint.storage.size, paths)) + len(content)
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    manifest = json.loads(content)
    assert manifest["step"] == 12
    assert manifest["spec"]["seed"] == 0
    checkpoint.verify()


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_costs_a_checkpoint_and_neither_the_training_nor_the_one_before(tmp_path: Path, room: int) -> None:
    job = order(tmp_path, **JOB)
    data = load_data(job.spec.data)
    state = TrainingState(job.spec, build_flow(job.spec, data.dim))
    outbox = KeepingOutbox()
    checkpointer = Checkpointer(rank_run(job, outbox), data)
    state.step = 3
    checkpointer.after_step(state, is_best=False)
    state.step = 6
    with full_disk(room):
        checkpointer.after_step(state, is_best=False)
    (event,) = outbox.of("event")
    assert event.name == "checkpoint_failed"
    assert files(checkpointer.folder) == ["step-000000003-attempt-1"]
    state.step = 9
    checkpointer.after_step(state, is_best=False)
    assert [record.step for record in outbox.of("checkpoint")] == [3, 9]
    newest = checkpointer.newest()
    assert newest is not None
    assert newest.step == 9


@in_a_bucket_where_there_is_time
def test_a_checkpoint_of_another_format_is_refused_by_its_number(place: str) -> None:
    run(place, **JOB)
    checkpoint = stored(place)[-1]
    manifest = json.dumps(checkpoint.manifest() | {"format": 99})
    checkpoint.storage.write(f"{checkpoint.path}/manifest.json", manifest.encode())
    with pytest.raises(CorruptCheckpointError, match="format 99"):
        checkpoint.verify()


def test_another_spec_goes_on_from_the_weights_with_its_own_settings(tmp_path: Path) -> None:
    run(tmp_path, **JOB)
    changes = JOB | {
        "stop": {"kind": "steps", "max_steps": 14},
        "optimizer": {"kind": "adam", "learning_rate": 1e-4, "betas": [0.5, 0.9]},
        "gradient": {"kind": "backprop"},
        "ema": None,
    }
    outcome, outbox = run(tmp_path, attempt=2, **changes)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert resumed_from(outbox) == 12
    assert outbox.series("learning_rate") == [1e-4, 1e-4]
    state = CheckpointFolder(str(tmp_path), "job-1").stored()[-1].load()
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.5, 0.9)
