"""The cluster that the tests share: made from nothing, taken down with all its volumes at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import Cluster

# The others need a container engine and half an hour: `make test-cluster`.
WITHOUT_AN_ENGINE = {"test_compose.py", "test_manifests.py"}
collect_ignore = (
    []
    if os.environ.get("SYMADJ_TEST_CLUSTER")
    else [file.name for file in Path(__file__).parent.glob("test_*.py") if file.name not in WITHOUT_AN_ENGINE]
)


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Two worker containers of one CPU each; whatever a failed test leaves running is cancelled."""
    yield shared_cluster
    shared_cluster.cancel_all()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """The same for all tests."""
    cluster = Cluster(os.environ.get("COMPOSE", "docker compose").split())
    if _postgres_is_debians(cluster):
        cluster.files.append("tests/cluster/compose.local.yaml")
        _stand_in_for_prometheus(cluster)
    _down(cluster)
    cluster.run("build", timeout=3600)
    cluster.say("the image is built: up")
    cluster.up(workers=2)
    cluster.say("up")
    try:
        yield cluster
    finally:
        _down(cluster)


def _down(cluster: Cluster) -> None:
    # What belongs to a profile that is not named stays.
    cluster.run("--profile", "prometheus", "--profile", "sinks", "down", "--volumes", "--timeout", "10")


def _stand_in_for_prometheus(cluster: Cluster) -> None:
    """Where no image can be pulled, make one of Debian's package under the name that the compose file uses."""
    compose = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text())
    name = compose["services"]["prometheus"]["image"]
    if not cluster.docker("image", "inspect", "--format", "{{.Id}}", name, check=False):
        folder = Path(__file__).parent / "prometheus"
        cluster.docker("build", "--network", "host", "--quiet", "--tag", name, str(folder))


def _postgres_is_debians(cluster: Cluster) -> bool:
    """Return whether an image that is not the official one stands in for it."""
    entrypoint = cluster.docker("image", "inspect", "--format", "{{.Config.Entrypoint}}", "postgres:15", check=False)
    return entrypoint not in {"", "[docker-entrypoint.sh]"}
