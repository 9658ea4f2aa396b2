"""The cluster that the tests share: made from nothing, taken down with all its volumes at the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster

# They need a container engine and half an hour: `make test-cluster`.
collect_ignore = [] if os.environ.get("SYMADJ_TEST_CLUSTER") else ["test_deaths.py", "test_upgrade.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two worker containers of one CPU each, everything healthy."""
    has_v2 = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    cluster = Cluster(["docker", "compose"] if has_v2 else ["docker-compose"])
    if _postgres_is_debians(cluster):
        cluster.files.append("tests/cluster/compose.local.yaml")
    cluster.run("down", "--volumes", "--timeout", "5")
    cluster.run("build", timeout=3600)
    cluster.say("the image is built: up")
    cluster.up(workers=2)
    cluster.say("up")
    try:
        yield cluster
    finally:
        print("\n" + "\n".join(cluster.log))
        cluster.run("down", "--volumes", "--timeout", "10")


def _postgres_is_debians(cluster: Cluster) -> bool:
    """Return whether an image that is not the official one stands in for it."""
    entrypoint = cluster.docker("image", "inspect", "--format", "{{.Config.Entrypoint}}", "postgres:15", check=False)
    return entrypoint not in {"", "[docker-entrypoint.sh]"}
