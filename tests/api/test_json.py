"""``--json``: every command that shows an answer prints it whole, for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from symadj.api.cli import main
from symadj.api.client import Client
from symadj.service.contract.spec.comparison import COMPARISON
from symadj.service.contract.spec.sweep import SweepSpec
from tests.api.conftest import NOW, Run
from tests.api.test_head import leave_a_file

# They print no answer of the API: a service, tables of rows, a script for a shell; a deletion has none.
WITHOUT = {"serve", "logprob", "sample", "completion", "keys bootstrap"}
WITHOUT |= {"delete", "sweep delete", "uploads delete", "webhooks remove"}
SWEEP = SweepSpec.model_json_schema()["examples"][0]
# They compute for seconds, or need a server that may call others; tests of their own run them.
ELSEWHERE = {"doctor", "plan", "validate", "inspect", "score"}
ELSEWHERE |= {"webhooks add", "webhooks deliveries", "webhooks ping", "webhooks enable"}


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command of the parser, with its name."""
    for word, found in command.commands.items():
        path = f"{name} {word}".strip()
        if hasattr(found, "commands"):
            yield from leaves(found, path)
        else:
            yield path, found


COMMANDS = dict(leaves(typer.main.get_command(main.app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_shows_an_answer_takes_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert ("--json" in options) is (name not in WITHOUT)


@pytest.fixture
def ready(new_run: Callable[..., Run]) -> Callable[[str], Run]:
    """A function that gives a job which is as a command wants it, with all that one can have."""

    def make(command: str) -> Run:
        run = new_run(labels={COMPARISON: "one"})
        run.send(
            {"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": 1.0}},
            {"kind": "log", "time": NOW, "stream": "stdout", "lines": ["a line"], "end": 7},
        )
        run.write_checkpoint(1)
        leave_a_file(run, b"content")
        if command == "resume":
            run.post("/pause")
            run.end("paused")
        if command in {"retry", "watch"}:
            run.end("cancelled")
        return run

    return make


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT | ELSEWHERE])
def test_what_a_command_prints_with_json_is_json(
    name: str, ready: Callable[[str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ready(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYMADJ_DATA", str(run.server.data))
    monkeypatch.setenv("SYMADJ_KEY_SECRET", "a secret of the server's for tests")
    Path("cells.csv").write_text("a,b\n1,2\n")
    Path("spec.yaml").write_text("data: {kind: toy, name: moons}\n")
    given = {"job": run.job_id, "jobs": run.job_id, "spec": "spec.yaml", "labels": "a=b", "comparison_id": "one"}
    given |= {"name": "ada", "role": "viewer", "file": "cells.csv"}
    if name == "keys revoke":
        made = CliRunner().invoke(main.app, ["keys", "create", "ada", "--role", "viewer", "--json"])
        given["key"] = json.loads(made.stdout)["id"]
    if name.startswith("sweep"):
        with Client(run.server.url) as client:
            given["sweep"] = client.submit_sweep(SWEEP).id
        given["spec"] = "sweep.yaml"
        Path("sweep.yaml").write_text(json.dumps(SWEEP))
    words = [*name.split(), "--json"]
    for parameter in COMMANDS[name].params:
        if parameter.required:
            option = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            words += [*option, given[parameter.name]]
        if parameter.name == "url":
            words += ["--url", run.server.url]
    done = CliRunner().invoke(main.app, words)
    assert done.exit_code in {0, 3}, done.output
    assert done.stdout.strip(), done.stderr
    # One answer, or one a line.
    try:
        json.loads(done.stdout)
    except ValueError:
        for line in done.stdout.splitlines():
            json.loads(line)
