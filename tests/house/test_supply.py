"""What is installed is what was locked, and SECURITY.md names tests that are there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.gpu.wheels import in_parts
from tests.house.written import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")
DIGEST = "sha256:" + "ab" * 32


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Return version and hashes of each package in a lock."""
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in re.split(r"\n(?=\w)", (ROOT / name).read_text()):
        if match := re.search(r"^([\w.-]+)==([\w.]+)", entry, re.MULTILINE):
            found[canonicalize_name(match[1])] = (match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
    return found


def asked_for(*extras: str) -> dict[str, Requirement]:
    """Return what extras of pyproject.toml ask for, by name."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    requirements = [Requirement(line) for extra in extras for line in options[extra]]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


USERS = asked_for("service", "train", "postgresql", "s3")


@pytest.mark.parametrize("name", [*LOCKS, "tests/peers/requirements.lock", "tests/gpu/requirements.lock"])
def test_every_file_that_a_lock_allows_is_named_by_its_hash(name: str) -> None:
    assert [package for package, (_, hashes) in locked(name).items() if not hashes] == []


def test_users_install_what_they_asked_for_and_none_of_the_developers_tools() -> None:
    users, developers = (locked(name) for name in LOCKS)
    assert users.keys() & developers.keys() == set(), "each stands once"
    for wanted, lock in ((USERS, users), (asked_for("dev"), users | developers)):
        assert all(item.specifier.contains(lock[name][0]) for name, item in wanted.items())
    assert asked_for("dev").keys() - USERS.keys() <= developers.keys()


def test_torch_is_pinned_by_its_version_alone_so_that_every_platform_gets_its_build() -> None:
    ((name, (version, hashes)),) = locked("requirements-torch.lock").items()
    assert (name, hashes) == ("torch", [])
    assert re.fullmatch(r"[\d.]+", version)
    of_torch = re.compile("torch|triton|nvidia-|cuda-")
    assert [package for lock in LOCKS for package in locked(lock) if of_torch.match(package)] == []


def test_the_gpu_part_is_tested_with_the_versions_that_users_install() -> None:
    ours = {**locked(LOCKS[0]), **locked(LOCKS[1])}
    there = locked("tests/gpu/requirements.lock")
    assert {name for name in there if name in ours and there[name][0] != ours[name][0]} == set()
    assert there.keys() - ours.keys() == {"torchdiffeq"}
    asked = (ROOT / "tests/gpu/requirements.in").read_text().splitlines()
    assert {name for name in asked if not name.startswith("#")} <= there.keys()


def test_what_travels_to_a_machine_without_a_network_is_in_parts_that_a_transfer_may_have(tmp_path: Path) -> None:
    wheels = [tmp_path / f"{size}.whl" for size in (35, 17, 9, 6, 1)]
    for wheel in wheels:
        with wheel.open("wb") as file:
            file.truncate(int(wheel.stem))
    assert [[int(wheel.stem) for wheel in part] for part in in_parts(wheels, 40)] == [[35, 1], [17, 9, 6]]
    with pytest.raises(ValueError, match=r"35.whl has 35 bytes, more than a part may have \(34\): raise --part-mib"):
        in_parts(wheels, 34)


def test_images_are_pinned_to_the_digests_that_their_registries_give(tmp_path: Path) -> None:
    for name in ("docker/Dockerfile", "docker/pin", "compose.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    docker = tmp_path / "docker" / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho {DIGEST}\n')
    docker.chmod(0o755)
    environment = {"PATH": f"{docker.parent}:{os.environ['PATH']}"}

    def pin(*arguments: str) -> int:
        return subprocess.run([tmp_path / "docker/pin", *arguments], env=environment, check=False).returncode

    texts = [(tmp_path / name).read_text() for name in ("docker/Dockerfile", "compose.yaml")]
    tags = {tag for text in texts for tag in re.findall(r"(?:FROM|image:) ([\w/.-]+:[\w.-]+)", text)}
    assert len(tags) == 3
    assert pin("--check") == (0 if all("@sha256:" in text for text in texts) else 1)
    assert pin() == 0
    assert pin("--check") == 0
    assert {line.split()[-1] for line in (tmp_path / "asked").read_text().splitlines()} == tags
    pinned = [(tmp_path / name).read_text() for name in ("docker/Dockerfile", "compose.yaml")]
    assert pin() == 0
    assert pinned == [(tmp_path / name).read_text() for name in ("docker/Dockerfile", "compose.yaml")]
    assert [re.sub("@sha256:[0-9a-f]{64}", "", text) for text in pinned] == [
        re.sub("@sha256:[0-9a-f]{64}", "", text) for text in texts
    ]
    assert sum(text.count(f"@{DIGEST}") for text in pinned) == 4, "the image of Python is named twice"


def test_security_md_names_tests_that_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 10
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists() or (name and f"def {name}(" not in (ROOT / file).read_text())
    ]
    assert missing == []
