"""A service whose jobs' files and data lie in a bucket, with a real Ray."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest

from symadj.service.contract.storage import open_storage
from tests.buckets import BucketServer
from tests.deaths.world import World, now, toy, world

pytestmark = [pytest.mark.ray, pytest.mark.deaths]

STEPS = 1000
DATA = {"kind": "file", "path": "rows.npy", "batch_size": 16}


def weights(running: World, job_id: str, folder: Path) -> str:
    """Download a job's weights; return their sum, which is the one that was told."""
    (item,) = [item for item in running.client.artifacts(job_id).items if item.name == "weights.safetensors"]
    running.client.download(job_id, item.name, folder / job_id)
    assert hashlib.sha256((folder / job_id).read_bytes()).hexdigest() == item.sha256
    return item.sha256


def refuse_to_find(secret: str, data: Path) -> None:
    """Look through the store and all logs, ours and Ray's."""
    folders = [data, Path((data / "ray.folder").read_text())]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.parent.name == "logs" and "runtime_env" in path.name for path in files), "Ray's logs are among them"
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_a_killed_worker_costs_the_steps_since_the_checkpoint_in_the_bucket_and_no_bit(
    bucket_server: BucketServer, tmp_path: Path
) -> None:
    place, roots = bucket_server.new_bucket(), bucket_server.new_bucket()
    rows = io.BytesIO()
    np.save(rows, np.random.default_rng(0).standard_normal((400, 2)))
    open_storage(roots).write("rows.npy", rows.getvalue())
    with world(tmp_path / "data", SYMADJ_STORAGE=place, SYMADJ_DATA_ROOTS=f"/nowhere:{roots}") as running:
        in_peace = running.submit(toy(STEPS, data=DATA))
        running.ended(in_peace)
        disturbed = running.submit(toy(STEPS, data=DATA))
        running.at_step(disturbed, 500)
        died_at = now()
        running.process(disturbed, "rank-0").kill()
        running.recovered(disturbed, died_at, attempt=2)
        running.ended(disturbed)
        assert weights(running, disturbed, tmp_path) == weights(running, in_peace, tmp_path)
        assert (running.client.attempts(disturbed).items[1].resumed_from_step or 0) >= 400
        child = running.submit(toy(STEPS + 10, data=DATA, parent={"job": disturbed}))
        running.client.delete(disturbed)
        running.ended(child)
        assert sorted(open_storage(place).sizes()) == sorted([in_peace, child])
        refuse_to_find(os.environ["AWS_SECRET_ACCESS_KEY"], tmp_path / "data")
