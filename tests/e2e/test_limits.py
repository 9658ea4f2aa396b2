"""What a run may take of time and memory, on a real Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from symadj.api.client import Client
from symadj.api.schemas.jobs import Failure
from tests.buckets import BucketServer
from tests.e2e.conftest import Service, running_service

pytestmark = pytest.mark.ray

FILE = {
    "data": {"kind": "file", "path": "cells.npy", "batch_size": 100, "transforms": []},
    "flow": {"blocks": 1, "field": {"hidden": [4]}},
    "stop": {"max_steps": 1},
}

FAILED = 1


def failure_of_the_first_attempt(service: Service, spec: dict[str, Any]) -> Failure:
    """Return why a job that the service gets has failed; no second attempt was made."""
    with Client(service.url) as client:
        job = client.submit(spec)
        assert service.run("watch", job.id).returncode == FAILED
        job = client.job(job.id)
    assert job.failure is not None
    assert job.attempt == 1
    return job.failure


def test_data_that_take_too_long_to_read_end_the_job_as_a_fault_of_the_data(
    tmp_path: Path, bucket_server: BucketServer
) -> None:
    settings = {"SYMADJ_DATA_TIMEOUT_S": "1", "SYMADJ_DATA_ROOTS": bucket_server.new_bucket(), "SYMADJ_WARM_RUNS": "0"}
    with running_service(tmp_path, **settings) as service, bucket_server.silent():
        assert not [c for c in psutil.Process(service.process.pid).children() if "warm" in " ".join(c.cmdline())]
        failure = failure_of_the_first_attempt(service, FILE)
    assert failure.code == "data_error"
    assert "cells.npy was not read within 1 s" in failure.message
    assert failure.data["file"] == "cells.npy"


# Some gigabytes of graph, in one rank of a small network.
HUNGRY = {
    "data": {"kind": "toy", "name": "moons", "rows": 60_000, "batch_size": 40_000},
    "flow": {"blocks": 1, "field": {"hidden": [256, 256]}},
    "solver": {"kind": "fixed", "method": "rk4", "steps": 200},
    "gradient": {"kind": "backprop"},
    "stop": {"max_steps": 5},
    "resources": {"memory_budget": "512MiB"},
    "evaluation": None,
}
LIMIT = 3 * 2**30


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group whose processes may hold ``LIMIT`` bytes together."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    base, limit = (first, "memory.limit_in_bytes") if first.is_dir() else (second, "memory.max")
    group = base / f"symadj-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group with a limit of memory can be made here: {error}")
    yield group
    group.rmdir()


def test_a_rank_that_the_kernel_kills_for_want_of_memory_ends_the_job_as_that_with_the_figures(
    tmp_path: Path, memory_group: Path
) -> None:
    within = ("sh", "-c", f'echo $$ > {memory_group}/cgroup.procs; exec "$@"', "sh")
    # Without Ray's own look at memory, which might be faster.
    with running_service(tmp_path, within=within, RAY_memory_monitor_refresh_ms="0") as service:
        failure = failure_of_the_first_attempt(service, HUNGRY)
    assert failure.code == "out_of_memory"
    assert "the 3 GiB of its container was used up; resources.memory_budget is 512 MiB" in failure.message
    assert "data.batch_size" in failure.data["advice"]
    assert failure.data["memory_budget_bytes"] == 512 * 2**20
    assert failure.data["memory_limit_bytes"] == LIMIT
    assert 0.9 * LIMIT < failure.data["container_peak_bytes"] <= LIMIT
    assert "host_peak_bytes" in failure.data


@pytest.mark.slow
def test_a_rank_that_ray_ends_for_want_of_memory_ends_the_job_as_that_with_the_figures(tmp_path: Path) -> None:
    # Outside a container Ray looks at the memory of the whole machine, and ends processes when this share is used.
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + LIMIT) / memory.total
    if threshold > 0.9:
        pytest.skip("the machine has not enough free memory")
    environment = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "50"}
    with running_service(tmp_path, **environment) as service:
        failure = failure_of_the_first_attempt(service, HUNGRY)
    assert failure.code == "out_of_memory"
    assert failure.message.startswith("Ray ended a worker because its node ran out of memory")
    assert failure.data["memory_budget_bytes"] == 512 * 2**20
