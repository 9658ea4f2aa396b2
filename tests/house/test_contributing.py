"""CONTRIBUTING.md's table: to add one of each kind in a copy of the repository takes the files that it names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import running_api
from tests.house.extensions import EXTENSIONS, Extension
from tests.house.test_pages import table
from tests.house.written import ROOT

TABLE = table((ROOT / "CONTRIBUTING.md").read_text(), "to add a")
# At most so many files beside the tests and the page.
MOST = {"solver": 2, "gradient": 3, "field": 3, "regulariser": 2, "data format": 2, "endpoint": 3, "command": 2}
TIES = ("tests/__init__.py", "tests/house/__init__.py", "tests/house/test_ties.py")


def paths(cell: str) -> list[str]:
    return re.findall(r"`([\w./]+\.(?:py|md))`", cell)


FILES = {kind: paths(code) for kind, code, _ in TABLE}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the rooms, and of the tests that tie them, with every extension in it."""
    folder = tmp_path_factory.mktemp("copy")
    for room in ("symadj", "symadj_core", "api", "service", "workers"):
        shutil.copytree(ROOT / room, folder / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for test in TIES:
        (folder / test).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / test, folder / test)
    for extension in EXTENSIONS.values():
        apply(extension, folder)
    return folder


def apply(extension: Extension, copy: Path) -> None:
    for file, text in extension.new.items():
        assert not (copy / file).exists()
        (copy / file).write_text(text)
    for edit in extension.edits:
        before = (copy / edit.file).read_text()
        assert before.count(edit.anchor) == 1, (
            f"{edit.anchor!r} stands {before.count(edit.anchor)} times in {edit.file}"
        )
        (copy / edit.file).write_text(before.replace(edit.anchor, edit.text))


def environment(copy: Path) -> dict[str, str]:
    """Of a process on the copy, which the first one compiles for all."""
    return {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": ""}


def run(copy: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=os.environ | environment(copy), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_table_has_a_row_for_each_kind_with_few_files() -> None:
    assert {kind: len(files) for kind, files in FILES.items()} == MOST


@pytest.mark.parametrize("kind", FILES)
def test_every_file_of_the_table_is_there(kind: str) -> None:
    _, code, page = next(row for row in TABLE if row[0] == kind)
    for path in paths(code) + paths(page):
        place = ROOT / path
        assert place.parent.is_dir() if "NAME" in path else place.is_file(), path


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_an_extension_touches_the_files_of_its_row_and_no_other(kind: str) -> None:
    extension = EXTENSIONS[kind]
    assert {file.replace("NAME", extension.name) for file in FILES[kind]} == extension.files


def test_what_those_files_add_can_be_used_from_a_spec(copy: Path) -> None:
    # In one process: torch takes a second to load.
    run(
        copy,
        "-c",
        "".join(EXTENSIONS[kind].proof for kind in ("solver", "gradient", "field", "regulariser", "data format")),
    )


def test_what_those_files_add_keeps_the_ties_between_spec_and_core(copy: Path) -> None:
    ties = run(copy, "-m", "pytest", "-p", "no:cacheprovider", "tests/house/test_ties.py", "--verbose")
    for kind in ("gradient", "field"):
        assert EXTENSIONS[kind].name in ties.lower()


def test_what_those_files_add_is_served_and_read_by_the_client_and_the_command(copy: Path) -> None:
    with running_api(copy / "data", PYTHONSAFEPATH="1", **environment(copy)) as server:
        run(copy, "-c", EXTENSIONS["endpoint"].proof, server.url)
        assert run(copy, "-c", EXTENSIONS["command"].proof, server.url) == "ok\n"
