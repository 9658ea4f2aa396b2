"""Jobs that go on from a checkpoint of another one."""

from __future__ import annotations

from typing import Any

import pytest

from symadj.service.contract import layout
from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.contract.storage import Bucket, Storage
from symadj.service.dispatcher.sweeps import PAUSE_SECONDS, SweepRunner
from symadj.service.errors import InvalidSpecError
from symadj.service.lifecycle import parents, sweeps
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from symadj.service.store import sweeps as stored
from tests.buckets import BucketServer
from tests.service.conftest import Clock
from tests.service.lives import checkpoint, claim, lose, read, send, submit


@pytest.fixture
def parent(database: Database) -> str:
    """A job of ada's with checkpoints of steps 10 and 20, the latter of two attempts."""
    job_id = submit(database)
    send(database, claim(database, job_id).token, 1, checkpoint(10), checkpoint(20), checkpoint(5))
    lose(database, job_id)
    send(database, claim(database, job_id).token, 1, checkpoint(20, 2))
    return job_id


def test_a_job_begins_with_the_checkpoint_of_the_step_that_it_names_or_with_the_newest(
    database: Database, parent: str
) -> None:
    newest, named = submit(database, parent={"job": parent}), submit(database, parent={"job": parent, "step": 10})
    assert read(database, newest).parent_checkpoint == "step-000000020-attempt-2"
    assert read(database, named).parent_checkpoint == "step-000000010-attempt-1"
    assert read(database, named).parent_id == parent


def test_what_the_weights_do_not_depend_on_may_change(database: Database, parent: str) -> None:
    changes: dict[str, Any] = {
        "flow": {"kind": "cnf", "divergence": {"kind": "exact"}},
        "optimizer": {"kind": "adam", "learning_rate": 1e-5},
        "resources": {"kind": "cpu", "workers": 2},
        "stop": {"kind": "steps", "max_steps": 21},
        "seed": 3,
    }
    submit(database, parent={"job": parent}, **changes)


@pytest.mark.parametrize(
    ("changes", "pointer", "values"),
    [
        ({"flow": {"kind": "cnf", "blocks": 3}}, "/flow/blocks", "flow.blocks is 3 here and 2"),
        ({"flow": {"kind": "cnf", "field": {"kind": "residual"}}}, "/flow/field/kind", "'residual' here and 'mlp'"),
        ({"data": {"kind": "toy", "name": "pinwheel"}}, "/data/name", "'pinwheel' here and 'moons'"),
        ({"data": {"kind": "builtin", "name": "iris", "batch_size": 50}}, "/data/kind", "'builtin' here and 'toy'"),
        ({"optimizer": {"kind": "sgd"}}, "/optimizer/kind", "'sgd' here and 'adam'"),
        ({"stop": {"kind": "steps", "max_steps": 20}}, "/stop/max_steps", "max_steps 20 is not above the 20 steps"),
    ],
)
def test_what_the_weights_depend_on_must_be_the_same(
    database: Database, parent: str, changes: dict[str, Any], pointer: str, values: str
) -> None:
    with pytest.raises(InvalidSpecError, match=values) as caught:
        submit(database, parent={"job": parent}, **changes)
    assert caught.value.extensions == {"pointer": pointer}


def test_a_parent_must_be_the_users_own_and_have_the_checkpoint(database: Database, parent: str) -> None:
    bare = submit(database)
    for owner, wanted, pointer, words in (
        ("ada", {"job": "job-none"}, "/parent/job", "is not a job of ada"),
        ("bob", {"job": parent}, "/parent/job", "is not a job of bob"),
        ("ada", {"job": bare}, "/parent/step", "it has none"),
        (
            "ada",
            {"job": parent, "step": 11},
            "/parent/step",
            "of step 11: it has those of steps 5, 10, 20",
        ),
    ):
        with pytest.raises(InvalidSpecError, match=words) as caught:
            submit(database, owner=owner, parent=wanted)
        assert caught.value.extensions == {"pointer": pointer}


CHECKPOINT = {name: name.encode() for name in ("manifest.json", "training.pt", "weights.safetensors")}


def write_checkpoint(storage: Storage, job_id: str, name: str) -> str:
    """Write files as a checkpoint has them, and return its folder."""
    folder = f"{layout.checkpoint_folder(job_id)}/{name}"
    for file, content in CHECKPOINT.items():
        storage.write(f"{folder}/{file}", content)
    return folder


def adopt(database: Database, storage: Storage, child: str) -> None:
    with database.session() as session:
        parents.adopt_checkpoint(jobs.get(session, child), storage)


def test_the_files_are_the_childs_own_from_then_on(database: Database, parent: str, storage: Storage) -> None:
    write_checkpoint(storage, parent, "step-000000010-attempt-1")
    child = submit(database, parent={"job": parent, "step": 10})
    adopt(database, storage, child)
    storage.remove(layout.job_folder(parent))
    folder = f"{layout.checkpoint_folder(child)}/step-000000010-attempt-0"
    assert {name: storage.read(f"{folder}/{name}") for name in storage.children(folder)} == CHECKPOINT
    assert storage.children(layout.checkpoint_folder(child)) == ["step-000000010-attempt-0"]


@pytest.mark.parametrize("left", [[], ["training.pt"]])
def test_a_checkpoint_that_was_removed_meanwhile_is_refused_and_nothing_is_left(
    database: Database, parent: str, storage: Storage, left: list[str]
) -> None:
    for name in left:
        storage.write(f"{layout.checkpoint_folder(parent)}/step-000000010-attempt-1/{name}", b"")
    child = submit(database, parent={"job": parent, "step": 10})
    with pytest.raises(InvalidSpecError, match="are gone: choose another step"):
        adopt(database, storage, child)
    assert storage.children(layout.job_folder(child)) == []
    assert child not in storage.children("")


def test_a_checkpoint_that_is_replaced_while_it_is_copied_is_not_taken_by_halves(
    database: Database, parent: str, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Bucket(bucket_server.new_bucket())
    folder = write_checkpoint(storage, parent, "step-000000010-attempt-1")
    read = Bucket.read

    def read_and_replace(self: Bucket, path: str) -> bytes:
        content = read(self, path)
        storage.write(f"{folder}/manifest.json", b"of other files")
        return content

    monkeypatch.setattr(Bucket, "read", read_and_replace)
    child = submit(database, parent={"job": parent, "step": 10})
    with pytest.raises(InvalidSpecError, match="are gone"):
        adopt(database, storage, child)
    assert child not in storage.children("")


def test_a_sweeps_trial_with_a_parent_waits_while_the_bucket_is_away(
    database: Database, parent: str, settings: Settings, clock: Clock, bucket_server: BucketServer
) -> None:
    place = bucket_server.new_bucket()
    write_checkpoint(Bucket(place), parent, "step-000000010-attempt-1")
    base = {"data": {"kind": "toy", "name": "moons"}, "stop": {}, "parent": {"job": parent, "step": 10}}
    rates = {"optimizer.learning_rate": {"choices": [0.1]}}
    spec = SweepSpec.model_validate({"base": base, "parameters": rates, "sampler": {"kind": "grid"}})
    with database.session() as session:
        sweep_id, _ = sweeps.submit(session, spec, owner="ada")
    runner = SweepRunner(database, settings.model_copy(update={"storage": place}), clock)
    with bucket_server.away():
        runner.carry_on()
    with database.read_session() as session:
        assert "The next trial waits: s3://" in (stored.get(session, sweep_id).message or "")
        assert stored.trials(session, sweep_id) == []
    clock.now += PAUSE_SECONDS
    runner.carry_on()
    with database.read_session() as session:
        (trial,) = stored.trials(session, sweep_id)
    assert Bucket(place).children(layout.checkpoint_folder(trial.job_id or "")) == ["step-000000010-attempt-0"]
