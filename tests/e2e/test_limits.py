"""What a run may take of time and memory, on a real Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from symadj.api.client import Client
from tests.e2e.conftest import running_service

pytestmark = pytest.mark.ray

FILE = {
    "data": {"kind": "file", "path": "cells.npy", "batch_size": 100, "transforms": []},
    "flow": {"blocks": 1, "field": {"hidden": [4]}},
    "stop": {"max_steps": 1},
}

FAILED = 1


def test_data_that_take_too_long_to_read_end_the_job_as_a_fault_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    np.save(tmp_path / "datasets/cells.npy", np.random.default_rng(0).normal(size=(1000, 2)))
    with running_service(tmp_path, SYMADJ_DATA_TIMEOUT_S="0.0001") as service, Client(service.url) as client:
        job = client.submit(FILE)
        assert service.run("watch", job.id).returncode == FAILED
        job = client.job(job.id)
    assert job.failure is not None
    assert job.failure.code == "data_error"
    assert "cells.npy was not read within 0.0001 s" in job.failure.message
    assert job.failure.data["file"] == "cells.npy"
    assert job.attempt == 1
