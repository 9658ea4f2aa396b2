"""Comparisons of gradients over HTTP, by the client and by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from symadj.api.cli import main
from symadj.api.client import Client
from symadj.service.lifecycle import attempts
from symadj.service.store import Database, jobs
from symadj_core.gradients import GRADIENTS
from tests.api.conftest import NOW, Run
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY, ApiServer

V1 = "/api/v1/comparisons"


def ask(api: httpx.Client, **changes: Any) -> httpx.Response:
    headers = changes.pop("headers", {})
    return api.post(V1, json={"spec": TOY} | changes, headers=headers)


def trained(api: httpx.Client, server: ApiServer, job_id: str, **result: Any) -> None:
    """Let a job run three steps and end with a result."""
    database = Database(f"sqlite:///{server.data / 'symadj.sqlite'}")
    with database.session() as session:
        claim = attempts.claim(session, jobs.lock(session, job_id), actor="d", lease_seconds=60)
    database.close()
    assert claim is not None
    run = Run(api, server, database, job_id, claim.token)
    for step in (1, 2, 3):
        metrics = {"step_seconds": step / 10, "nfe_forward": 20.0, "nfe_backward": 18.0}
        memory = {"host_idle_bytes": 1000, "host_peak_bytes": 1000 + 100 * step}
        nothing = {"device_idle_bytes": None, "device_peak_bytes": None}
        run.send(
            {"kind": "step", "time": NOW, "step": step, "metrics": metrics},
            {"kind": "memory", "time": NOW, "step": step, "rank": 0, "phase": "backward"} | memory | nothing,
        )
    # It needs the same whatever the gradient, and may need more than any step.
    evaluation = {"kind": "memory", "time": NOW, "step": 3, "rank": 0, "phase": "evaluation"}
    run.send(evaluation | {"host_idle_bytes": 1000, "host_peak_bytes": 1900} | nothing)
    run.end("succeeded", result=result)


def test_every_gradient_gets_a_job_with_the_same_spec_otherwise(api: httpx.Client) -> None:
    answer = ask(api, max_steps=7)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"{V1}/{made['id']}"
    assert {item["gradient"]["kind"] for item in made["gradients"]} == GRADIENTS.keys()
    specs = [api.get(f"/api/v1/jobs/{item['job']}").json()["spec"] for item in made["gradients"]]
    for spec in specs:
        assert spec["stop"] == {"kind": "steps", "max_steps": 7}
        assert spec["pretraining"] is None
        assert spec["labels"]["comparison"] == made["id"]
        assert spec["evaluation"]["gradient_rows"] > 0
        assert spec | {"gradient": 0, "name": 0} == specs[0] | {"gradient": 0, "name": 0}
    listed = api.get("/api/v1/jobs", params={"label": f"comparison={made['id']}"}).json()["items"]
    assert {item["id"] for item in listed} == {item["job"] for item in made["gradients"]}


def test_what_each_took_and_gave_stands_in_the_order_asked_for(api: httpx.Client, api_server: ApiServer) -> None:
    gradients = [{"keep": {"kind": "steps"}}, {"kind": "adjoint"}]
    made = ask(api, gradients=gradients).json()
    assert [item["gradient"]["kind"] for item in made["gradients"]] == ["symplectic", "adjoint"]
    first = made["gradients"][0]
    assert (first["state"], first["test_nll"], first["step_seconds"]) == ("queued", None, None)
    error = {"rows": 100, "relative": 2e-7}
    trained(api, api_server, first["job"], test_nll=1.5, test_nll_stderr=0.1, gradient_error=error)
    first, second = api.get(f"{V1}/{made['id']}").json()["gradients"]
    assert second["state"] == "queued"
    assert first == first | {
        "state": "succeeded",
        "step": 3,
        "test_nll": 1.5,
        "test_nll_stderr": 0.1,
        "gradient_error": 2e-7,
        "peak_bytes": 1900,
        "above_idle_bytes": 300,
        "step_seconds": 0.2,
        "nfe_forward": 20.0,
        "nfe_backward": 18.0,
    }


def test_a_key_compares_once(api: httpx.Client) -> None:
    headers, kinds = {"Idempotency-Key": "night"}, [{"kind": "aca"}, {"kind": "adjoint"}]
    first, again = (ask(api, headers=headers, gradients=kinds) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert "with another spec" in assert_problem(ask(api, headers=headers, gradients=kinds, max_steps=3), 422)["detail"]
    for fewer_or_more in (kinds[:-1], [*kinds, {"kind": "symplectic", "keep": {"kind": "steps"}}]):
        problem = assert_problem(ask(api, headers=headers, gradients=fewer_or_more), 422)
        assert "with other gradients" in problem["detail"]
    assert api.get(f"{V1}/{first.json()['id']}").json() == first.json()


def test_a_gradient_that_does_not_fit_refuses_the_whole_by_its_place(api: httpx.Client) -> None:
    before = api.get("/api/v1/jobs").json()["items"]
    fixed = TOY | {"solver": {"kind": "fixed", "method": "rk4", "steps": 3}}
    problem = assert_problem(ask(api, spec=fixed, gradients=[{"kind": "aca"}, {"kind": "adjoint", "rtol": 0.1}]), 422)
    assert problem["errors"][0]["pointer"] == "/gradients/1"
    assert "gradient.rtol is the tolerance of an adaptive backward solve" in problem["errors"][0]["detail"]
    assert api.get("/api/v1/jobs").json()["items"] == before


def test_an_unknown_comparison_is_not_found(api: httpx.Client) -> None:
    assert "there is no comparison 'cmp-1'" in assert_problem(api.get(f"{V1}/cmp-1"), 404)["detail"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_command_prints_writes_and_draws_the_table(
    api: httpx.Client, api_server: ApiServer, tmp_path: Path, suffix: str
) -> None:
    with Client(api_server.url) as client:
        made = client.compare(TOY, [{"kind": "symplectic"}, {"kind": "aca"}], max_steps=3)
    for item in made.gradients:
        trained(api, api_server, item.job, test_nll=1.5, test_nll_stderr=0.1)
    table, plot = tmp_path / "table.md", tmp_path / f"plot.{suffix}"
    command = ["comparison", made.id, "--url", api_server.url, "--markdown", str(table), "--plot", str(plot)]
    printed = CliRunner().invoke(main.app, command)
    assert printed.exit_code == 0, printed.output
    assert "symplectic, keep stages" in printed.output
    assert "| aca | succeeded | 1.5000 +- 0.1000 | - | 300 B | 1.9 KiB | 0.2 | 20 | 18 |" in table.read_text()
    assert plot.stat().st_size > 1000
    printed = CliRunner().invoke(main.app, ["comparison", made.id, "--url", api_server.url, "--json"])
    assert json.loads(printed.output)["id"] == made.id


def test_the_command_takes_names_and_options_of_gradients(api_server: ApiServer, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(TOY))
    chosen = "aca,{kind: symplectic, keep: {kind: binomial, states: 4}}"
    command = ["compare", str(spec), "--url", api_server.url, "--gradients", chosen]
    printed = CliRunner().invoke(main.app, command)
    assert printed.exit_code == 0, printed.output
    with Client(api_server.url) as client:
        first, second = client.comparison(printed.output.strip()).gradients
    assert first.gradient == {"kind": "aca"}
    assert second.gradient["keep"] == {"kind": "binomial", "states": 4}
