"""A job that needs more memory than a worker's container has: it ends, and says so, with the figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.test_limits import HUNGRY

LIMIT = 1500 * 2**20
# Ray looks four times a second, and from 0.95 of the memory on: the kernel may come first where tensors are large.
WATCHES = {
    "Ray": {"RAY_memory_monitor_refresh_ms": "50", "RAY_memory_usage_threshold": "0.9"},
    "the kernel": {"RAY_memory_monitor_refresh_ms": "0"},
}


@pytest.fixture(params=WATCHES)
def who_ends_it(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """Small containers, in which Ray ends a process before the memory is used up, or does not look."""
    override = tmp_path / "compose.yaml"
    override.write_text(json.dumps({"services": {"worker": {"environment": WATCHES[request.param]}}}))
    cluster.files.append(str(override))
    cluster.up(workers=2, SYMADJ_WORKER_MEMORY=str(LIMIT))
    yield request.param
    cluster.files[:] = [file for file in cluster.files if not file.startswith(str(tmp_path))]
    cluster.up(workers=2)


def test_a_rank_for_which_its_container_is_too_small_ends_the_job_as_that_with_the_figures(
    cluster: Cluster, who_ends_it: str
) -> None:
    job_id = cluster.submit(HUNGRY)
    failure = cluster.wait_for_state(job_id, "failed")["failure"]
    assert failure["code"] == "out_of_memory"
    assert failure["message"].startswith(who_ends_it)
    assert failure["data"]["memory_limit_bytes"] == LIMIT
    assert 0.9 * LIMIT < failure["data"]["container_peak_bytes"] <= LIMIT
    assert failure["data"]["memory_budget_bytes"] == 512 * 2**20
    assert len(cluster.attempts(job_id)) == 1
