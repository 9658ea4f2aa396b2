"""Runs whose files lie in a bucket, where objects are uploaded, nothing is renamed, and the server may go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import pytest

from symadj.service.contract.records import AnyRecord
from symadj.service.contract.states import CheckpointCause, StopReason
from symadj.workers.files import retries
from symadj.workers.model.build import build_flow
from symadj.workers.training.checkpointer import Checkpointer
from symadj.workers.training.state import TrainingState
from tests.buckets import BucketServer
from tests.workers.loading import load_data
from tests.workers.runs import KeepingOutbox, order, rank_run, run
from tests.workers.test_checkpoints import JOB, resumed_from, stored, weights

PLAIN: dict[str, Any] = {"evaluation": None, "stop": {"kind": "steps", "max_steps": 3}}


@pytest.fixture
def bucket(bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(retries, "_TRY_EVERY_S", 0.0)
    return bucket_server.new_bucket()


class AwayBetween(KeepingOutbox):
    """An outbox that takes the server away when it is given one event, and brings it back at another."""

    def __init__(self, server: BucketServer, first: str, last: str = "storage_unreachable", **more: Any) -> None:
        super().__init__(**more)
        self._server, self._first, self._last, self._away = server, first, last, ExitStack()

    def put(self, record: AnyRecord) -> None:
        super().put(record)
        if record.kind == "event" and record.name == self._first:
            self._away.enter_context(self._server.away())
        if record.kind == "event" and record.name == self._last:
            self._away.close()


def events(outbox: KeepingOutbox, name: str) -> list[Any]:
    return [event for event in outbox.of("event") if event.name == name]


# Dies when the files of the checkpoint of step 6 are in the bucket and its manifest is not.
DIES = """
import os, signal, sys
from symadj.service.contract.storage import bucket
from tests.workers.runs import run, rank_run
from tests.workers.test_checkpoints import JOB
finish = bucket._Uploaded.finish
def die_or_finish(making):
    if "step-000000006" in making._target:
        os.kill(os.getpid(), signal.SIGKILL)
    finish(making)
bucket._Uploaded.finish = die_or_finish
run(sys.argv[1], **JOB)
"""


def test_a_process_killed_while_it_stores_a_checkpoint_is_followed_by_one_that_ends_with_the_same_weights(
    bucket: str,
) -> None:
    undisturbed = weights(run(bucket + "/undisturbed", **JOB)[1])
    killed = subprocess.run([sys.executable, "-c", DIES, bucket], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [checkpoint.step for checkpoint in stored(bucket)] == [3, 5]
    _, outbox = run(bucket, attempt=2, **JOB)
    assert resumed_from(outbox) == 5
    assert weights(outbox) == undisturbed


def test_a_bucket_that_is_away_costs_a_checkpoint_and_neither_the_training_nor_the_one_before(
    bucket_server: BucketServer, bucket: str
) -> None:
    job = order(bucket, **JOB | {"checkpoints": {"keep_last": 1}})
    data = load_data(job.spec.data)
    state = TrainingState(job.spec, build_flow(job.spec, data.dim))
    outbox = KeepingOutbox()
    checkpointer = Checkpointer(rank_run(job, outbox), data)
    state.step = 3
    checkpointer.save(state, CheckpointCause.STEPS)
    (kept,) = stored(bucket)
    with bucket_server.away():
        # The same step once more, as after its validation: what is there stays until the new one is.
        checkpointer._last = None
        checkpointer.save(state, CheckpointCause.BEST)
    (event,) = events(outbox, "checkpoint_failed")
    assert bucket in event.message
    assert stored(bucket) == [kept]
    kept.verify()
    checkpointer.save(state, CheckpointCause.BEST)
    assert [record.cause for record in outbox.of("checkpoint")] == ["steps", "best"]
    assert len(kept.storage.children(kept.path)) == 2, "the manifest, and one folder of files"
    kept.verify()


def test_a_run_waits_for_the_bucket_with_its_weights_and_tells_it_once(
    bucket_server: BucketServer, bucket: str
) -> None:
    outcome, outbox = run(bucket, AwayBetween(bucket_server, "training_finished"), **PLAIN)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert [record.name for record in outbox.of("artifact")] == ["weights.safetensors", "config.json", "README.md"]
    (event,) = events(outbox, "storage_unreachable")
    assert bucket in event.message


def test_a_run_waits_for_the_bucket_with_what_it_is_to_go_on_from(bucket_server: BucketServer, bucket: str) -> None:
    run(bucket, KeepingOutbox(superseded_after=7), **JOB)
    # Its first event is told before it looks for checkpoints.
    outcome, outbox = run(bucket, AwayBetween(bucket_server, "training_started"), attempt=2, **JOB)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert resumed_from(outbox) == 6, "what can't be read now is not taken for corrupt"
    assert events(outbox, "checkpoint_corrupt") == []
    assert len(events(outbox, "storage_unreachable")) == 1


def test_a_run_that_waits_for_the_bucket_can_be_paused(bucket_server: BucketServer, bucket: str) -> None:
    outbox = AwayBetween(
        bucket_server, "training_started", "nothing", stop_at="storage_unreachable", reason=StopReason.PAUSE
    )
    try:
        outcome, _ = run(bucket, outbox, **PLAIN)
    finally:
        outbox._away.close()
    assert outcome is not None
    assert outcome.state == "paused"
    assert "before the training" in outcome.message


def test_a_bucket_that_refuses_is_not_waited_for(bucket: str) -> None:
    outcome, outbox = run(bucket.replace("bucket-", "no-bucket-"), attempt=2, **PLAIN)
    assert outcome is not None
    assert outcome.state == "failed"
    assert "there is no such bucket" in outcome.message
    assert "SYMADJ_STORAGE" in outcome.data["advice"]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(outcome) + str(outbox.records)
