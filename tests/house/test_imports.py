"""Imports and starts name `symadj.api`, `symadj.service`, `symadj.workers`: a user may have an `api` of their own.

The import rules of the rooms are in pyproject.toml (`make check`); these are about names that no import rule sees:
in strings, in what a container starts, in what a page tells a reader to type.
"""

from __future__ import annotations

import re

import pytest

from tests.house.written import ROOT, written_files

ROOMS = ("api", "service", "workers")
MODULES = sorted({path.stem for room in ROOMS for path in (ROOT / room).iterdir() if path.suffix in {"", ".py"}})
ROOM = rf"(?:{'|'.join(ROOMS)})"
TOP_LEVEL_NAMES = re.compile(
    # A statement, at the beginning of a line, of a string or after a semicolon.
    rf"(?:^|[;\"'`])[ \t]*from\s+{ROOM}(?:\.\w+)*\s+import\b"
    rf"|(?:^|[;\"'`])[ \t]*import\s+(?:[\w.]+,\s*)*{ROOM}(?:\.\w+)*[ \t]*(?:$|[;,\"'`]|as\b)"
    # `python -m api`, as a line of a shell or a list of arguments.
    rf"|-m[\s\"',]+{ROOM}\b"
    # A module by its name: what is patched, started, or asked for its files.
    rf"|[\"'`]{ROOM}\.(?:{'|'.join(MODULES)})\b(?![-/])"
    rf"|\b(?<!\.){ROOM}(?:\.\w+)+:\w"
    rf"|resources\.files\([\"']{ROOM}\b"
    rf"|site-packages/{ROOM}\b",
    re.MULTILINE,
)
# They make a project that has such names.
EXCEPT = {ROOT / "tests/house/test_imports.py", ROOT / "tests/house/test_wheel.py"}


@pytest.mark.parametrize(
    "text",
    [
        "import api",
        "    import os, service.store as store",
        "from workers.run import main",
        'run("import sys; from api.app import create_app")',
        '[sys.executable, "-m", "api", "--port"]',
        "exec python -m service.dispatcher",
        'monkeypatch.setattr("workers.run", 1)',
        "uvicorn --factory api.app:create_app",
        'resources.files("workers")',
        "COPY later.py /lib/site-packages/service/store/",
    ],
)
def test_a_room_named_at_top_level_is_found(text: str) -> None:
    assert TOP_LEVEL_NAMES.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "from symadj.api.app import create_app",
        "import symadj.service.store as store",
        "python -m symadj.workers.run",
        "from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer",
        "records come\nfrom workers by the API",
        "import limits of the service",
        "tests/workers/runs.py",
    ],
)
def test_names_within_a_package_and_english_are_left_alone(text: str) -> None:
    assert not TOP_LEVEL_NAMES.search(text)


def test_nothing_in_the_repository_names_a_room_at_top_level() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0].strip()}"
        for path in written_files()
        if path not in EXCEPT
        for text in [path.read_text()]
        for match in TOP_LEVEL_NAMES.finditer(text)
    ]
    assert not found, "name it symadj.api, symadj.service or symadj.workers:\n" + "\n".join(found)
