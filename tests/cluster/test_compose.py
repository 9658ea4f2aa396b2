"""The compose file and the script that makes its secrets, without a container engine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from symadj.service.settings import Settings

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
SECRET = "${SYMADJ_SECRETS:-secrets}"


def mounts(name: str) -> dict[str, str]:
    """Return what a service has below which folder."""
    found = (volume.removesuffix(":ro").rpartition(":") for volume in SERVICES[name].get("volumes", []))
    return {folder: source for source, _, folder in found if source}


def make_secrets(root: Path, **environment: str) -> dict[str, str]:
    """Run the script with its folders below ``root``; return its complaint, if any, and what is in each file."""
    for volume in mounts("secrets"):
        (root / volume.removeprefix("/")).mkdir(parents=True, exist_ok=True)
    script = (ROOT / "docker" / "entrypoint").read_text().replace("/secrets", f"{root}/secrets")
    done = subprocess.run(
        ["bash", "-c", script, "entrypoint", "secrets"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    return {str(path.relative_to(root)): path.read_text() for path in files}


def named(service: str) -> set[str]:
    """Return the names of the secrets that a service's settings speak of."""
    found = set(re.findall(r"/secrets/([a-z-]+)", str(SERVICES[service].get("environment"))))
    # The file of keys for buckets is named to all, and `migrate` asks none.
    return found - {"aws-credentials"} if service == "migrate" else found


def given(files: dict[str, str], service: str) -> set[str]:
    """Return the names of the secrets in the folder of a service."""
    prefix = f"secrets-for/{service}/"
    return {name.removeprefix(prefix) for name in files if name.startswith(prefix)}


# The services that have secrets, and the folder of each.
SOURCES = {name: mounts(name)["/secrets"] for name in SERVICES if "/secrets" in mounts(name)}
FOLDERS = {name: source.removeprefix("secrets-") for name, source in SOURCES.items() if source != SECRET}


def test_only_the_service_that_makes_the_secrets_has_them_all() -> None:
    assert [name for name in SERVICES if SECRET in mounts(name).values()] == ["secrets"]
    assert set(FOLDERS) == {"postgres", "migrate", "api", "dispatcher", "sinks", "head", "worker"}
    given_to = {folder: volume for folder, volume in mounts("secrets").items() if folder != "/secrets"}
    assert given_to == {f"/secrets-for/{folder}": f"secrets-{folder}" for folder in FOLDERS.values()}


@pytest.mark.parametrize("service", FOLDERS)
def test_a_service_has_the_secrets_that_its_settings_name_and_no_others(service: str, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "aws-credentials").touch(mode=0o600)
    assert given(make_secrets(tmp_path), FOLDERS[service]) == named(service)


def test_who_has_the_secret_of_the_keys_and_who_the_password_of_the_database(tmp_path: Path) -> None:
    files = make_secrets(tmp_path)

    def having(name: str) -> set[str]:
        return {folder for folder in FOLDERS.values() if name in given(files, folder)}

    assert having("key-secret") == {"api", "migrate"}
    assert having("pgpass") == {"api", "migrate", "dispatcher", "sinks"}
    assert having("postgres-password") == {"postgres"}


def test_secrets_stay_the_same_and_what_is_taken_away_is_taken_from_all(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "aws-credentials").touch(mode=0o600)
    first = make_secrets(tmp_path, POSTGRES_PASSWORD="a:b")
    assert first["secrets-for/api/pgpass"] == "postgres:5432:symadj:symadj:a\\:b\n"
    assert make_secrets(tmp_path) == first
    (tmp_path / "secrets" / "aws-credentials").unlink()
    assert not [name for name in make_secrets(tmp_path) if "aws" in name]


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs_and_a_root_that_it_cant_write(service: str) -> None:
    options = SERVICES[service]
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges:true"]
    assert options["read_only"] is True
    assert not options.get("privileged")
    assert service == "postgres" or "cap_add" not in options, "the official image begins as root"


def test_every_folder_of_secrets_is_made_in_the_image_for_the_user_that_writes_there() -> None:
    (names,) = re.findall(
        r"for service in ([a-z ]+); do install -d -o symadj -g symadj /secrets-for/\$service", DOCKERFILE
    )
    assert set(names.split()) == set(FOLDERS.values())


def begin_warm(folder: Path, switch: str) -> list[str]:
    """Begin the process that runs are copies of; it dies at once. Return what is started until its third start."""
    fakes = {
        "healthy": "exit 0",
        "sleep": "exit 0",
        "python": f'echo "$@" >>{folder}/started; test "$(wc -l <{folder}/started)" -lt 3 || kill $PPID; exit 1',
    }
    (folder / "started").touch()
    for name, body in fakes.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    subprocess.run(
        ["bash", ROOT / "docker" / "entrypoint", "warm"],
        env={"PATH": f"{folder}:/usr/bin:/bin", "SYMADJ_WARM_SOCKET": "/tmp/warm.sock", "SYMADJ_WARM_RUNS": switch},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return (folder / "started").read_text().splitlines()


def test_the_process_that_runs_are_copies_of_is_started_again_when_it_dies(tmp_path: Path) -> None:
    assert begin_warm(tmp_path, "true") == ["-m symadj.workers.warm.template /tmp/warm.sock"] * 3


@pytest.mark.parametrize("switch", ["0", "False", "off", "no"])
def test_where_warm_starts_are_turned_off_no_such_process_is_started(tmp_path: Path, switch: str) -> None:
    assert begin_warm(tmp_path, switch) == []
    assert Settings.model_validate({"warm_runs": switch}).warm_runs is False, "the service takes it for the same"
