"""What the processes of a running cluster may do, and what they can read."""

from __future__ import annotations

import re

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.test_compose import SERVICES, named

# The others end when their work is done.
STAYING = [name for name, options in SERVICES.items() if options["restart"] != "no" and "profiles" not in options]


def in_each(cluster: Cluster, service: str, command: str, user: str = "0") -> list[str]:
    """Run a shell's command in each container of a service; return what each prints."""
    shell = ("sh", "-c", command)
    return [cluster.docker("exec", "--user", user, container, *shell) for container in cluster.containers(service)]


@pytest.mark.parametrize("service", STAYING)
def test_no_process_has_a_capability_or_can_gain_one(cluster: Cluster, service: str) -> None:
    # But for the shell that looks and what it starts, which are root's.
    command = "cd /proc; for id in [0-9]*; do [ $id -ge $$ ] || cat $id/status; done"
    for said in in_each(cluster, service, command):
        lines = [line.split() for line in said.splitlines()]
        assert {words[1] for words in lines if words[0] == "CapEff:"} == {"0" * 16}
        assert {words[1] for words in lines if words[0] == "NoNewPrivs:"} == {"1"}


@pytest.mark.parametrize("service", STAYING)
def test_not_even_root_can_write_to_the_image(cluster: Cluster, service: str) -> None:
    folders = ("/", "/etc", "/usr/local/bin", "/opt", "/home")
    command = "; ".join(f"touch {folder}/file 2>&1" for folder in folders)
    for said in in_each(cluster, service, f"{command}; true"):
        assert said.count("Read-only file system") == len(folders), said


@pytest.mark.parametrize("service", [name for name in STAYING if named(name)])
def test_a_container_has_its_secrets_and_no_others(cluster: Cluster, service: str) -> None:
    for said in in_each(cluster, service, "ls /secrets"):
        assert set(said.split()) == named(service) - {"aws-credentials"}, "of which there is none"


# PostgreSQL's image hands its password on in its own processes' environment.
@pytest.mark.parametrize("service", [name for name in STAYING if name != "postgres"])
def test_no_secret_is_in_an_environment(cluster: Cluster, service: str) -> None:
    all_secrets = cluster.run("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "secrets", "-c", "cat /secrets/*")
    values = set(re.findall("[0-9a-f]{64}", all_secrets))
    assert values
    for said in in_each(cluster, service, "cat /proc/[0-9]*/environ", user="10001"):
        assert not [value for value in values if value in said]


def test_a_login_shell_finds_ray(cluster: Cluster) -> None:
    (found, *_) = in_each(cluster, "worker", "bash -lc 'command -v ray'", user="10001")
    assert found == "/opt/symadj/bin/ray"
