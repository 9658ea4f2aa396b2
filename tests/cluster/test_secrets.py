"""Passwords and tokens: given or made at random, once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster

READ = "cd /secrets && head -n 1 postgres-password ray-token key-secret pgpass && stat -c %a *"


@pytest.fixture
def volume(cluster: Cluster) -> Iterator[str]:
    name = f"{cluster.project}_of-secrets"
    yield name
    cluster.docker("volume", "rm", name)


def run(cluster: Cluster, volume: str, command: str, **environment: str) -> str:
    """Run a command in a container that makes secrets."""
    variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
    mounts = ["--volume", f"{volume}:/secrets"]  # what each service gets of them goes with the container
    return cluster.docker("run", "--rm", *variables, *mounts, "symadj:local", "sh", "-c", command)


def test_what_is_not_given_is_random_and_stays_and_another_than_the_one_in_use_is_refused(
    cluster: Cluster, volume: str
) -> None:
    run(cluster, volume, "entrypoint secrets", POSTGRES_PASSWORD="a:b")
    made = run(cluster, volume, READ)
    assert "postgres:5432:symadj:symadj:a\\:b" in made
    assert made.endswith("600\n600\n600\n600"), "for their user alone"
    run(cluster, volume, "entrypoint secrets")
    assert run(cluster, volume, READ) == made
    refused = run(cluster, volume, "entrypoint secrets 2>&1 || echo exits $?", RAY_AUTH_TOKEN="another")
    assert "another ray-token" in refused
    assert refused.endswith("exits 1")
    assert run(cluster, volume, READ) == made


def test_a_folder_that_the_services_user_cannot_write_is_refused_with_what_to_do(cluster: Cluster, volume: str) -> None:
    as_root = ("--user", "0", "--volume", f"{volume}:/secrets", "symadj:local", "sh", "-c")
    # An empty volume would get the owner that the image gives it again.
    cluster.docker("run", "--rm", *as_root, "touch /secrets/file; chown 0 /secrets")
    refused = run(cluster, volume, "entrypoint secrets 2>&1 || echo exits $?")
    assert "chown -R 10001 the one that SYMADJ_SECRETS names" in refused
    assert refused.endswith("exits 1")
