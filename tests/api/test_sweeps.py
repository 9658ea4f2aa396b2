"""Sweeps over HTTP, by the client and by the command."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from symadj.api.client import Client
from symadj.service.contract.states import JobState
from symadj.service.dispatcher.sweeps import SweepRunner
from symadj.service.lifecycle import requests
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from tests.api.test_jobs import assert_problem
from tests.command import symadj
from tests.conftest import ROOT, TOY, ApiServer

V1 = "/api/v1/sweeps"
RATE = "optimizer.learning_rate"
BASE = TOY | {"stop": {"kind": "steps", "max_steps": 4}, "evaluation": {"validate_every_steps": 1}}
SPEC: dict[str, Any] = {
    "name": "rates",
    "labels": {"team": "x"},
    "base": BASE,
    "parameters": {RATE: {"choices": [0.001, 0.01, 0.1]}, "flow.field.hidden": {"choices": [[8]]}},
    "sampler": {"kind": "grid"},
    "parallel": 3,
}


class Dispatching:
    """What a dispatcher does for sweeps, and what it and Ray do for their jobs, by the store of a server."""

    def __init__(self, server: ApiServer) -> None:
        self.database = Database(f"sqlite:///{server.data / 'symadj.sqlite'}")
        self._runner = SweepRunner(self.database, Settings(data=server.data), lambda: 0.0)

    def carry_on(self) -> None:
        self._runner.carry_on()

    def end(self, job_id: str, nll: float) -> None:
        """Let a job end with a result."""
        with self.database.session() as session:
            job = jobs.lock(session, job_id)
            for state in (JobState.STARTING, JobState.RUNNING):
                jobs.transition(session, job, state, actor="d", message="")
            result = {"validation_nll": nll}
            jobs.transition(session, job, JobState.SUCCEEDED, actor="d", message="", result=result)


@pytest.fixture
def dispatching(api_server: ApiServer) -> Iterator[Dispatching]:
    made = Dispatching(api_server)
    with closing(made.database):
        yield made


def begin(api: httpx.Client, dispatching: Dispatching, **changes: Any) -> dict[str, Any]:
    answer = api.post(V1, json=SPEC | changes)
    assert answer.status_code == 201, answer.text
    dispatching.carry_on()
    read: dict[str, Any] = api.get(answer.headers["location"]).json()
    return read


def test_a_sweep_is_read_with_its_trials_its_counts_and_the_best(api: httpx.Client, dispatching: Dispatching) -> None:
    sweep = begin(api, dispatching)
    assert (sweep["state"], sweep["wanted"], sweep["counts"]["open"], sweep["best"]) == ("running", 3, 3, None)
    assert [trial["job_state"] for trial in sweep["trials"]] == ["queued"] * 3
    for trial, nll in zip(sweep["trials"], (2.5, 1.5, 3.5), strict=True):
        dispatching.end(trial["job"], nll)
    dispatching.carry_on()
    read = api.get(f"{V1}/{sweep['id']}").json()
    assert (read["state"], read["finished_at"] is None) == ("succeeded", False)
    assert [trial["value"] for trial in read["trials"]] == [2.5, 1.5, 3.5]
    assert read["best"]["parameters"] == {RATE: 0.01, "flow.field.hidden": [8]}
    assert read["spec"]["trials"] == 3
    (listed,) = (item for item in api.get(V1).json()["items"] if item["id"] == sweep["id"])
    assert listed == {name: value for name, value in read.items() if name not in {"spec", "trials"}}
    assert api.get(f"{V1}/{sweep['id']}/trials").json()["items"] == read["trials"]
    best_last = begin(api, dispatching, objective={"metric": "train_seconds", "direction": "maximize"})
    assert best_last["objective"] == {"metric": "train_seconds", "direction": "maximize"}


def test_trials_are_exported_as_csv_with_a_column_a_parameter(
    api: httpx.Client, api_server: ApiServer, dispatching: Dispatching
) -> None:
    sweep = begin(api, dispatching)
    answer = api.get(f"{V1}/{sweep['id']}/trials", headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [float(row[RATE]) for row in rows] == [0.001, 0.01, 0.1]
    assert [row["job"] for row in rows] == [trial["job"] for trial in sweep["trials"]]
    assert {(row["state"], row["value"], row["flow.field.hidden"]) for row in rows} == {("open", "", "[8]")}
    assert symadj(api_server, "sweep", "show", sweep["id"], "--csv").stdout.splitlines() == answer.text.splitlines()
    assert_problem(api.get(f"{V1}/{sweep['id']}/trials", headers={"Accept": "image/png"}), 406)


def test_a_dry_run_says_what_would_be_stored_and_begins_nothing(api: httpx.Client) -> None:
    base = BASE | {"data": {"kind": "file", "path": f"{uuid4().hex}.csv"}}
    before = api.get(V1, params={"limit": 1}).json()["items"]
    answer = api.post(V1, json=SPEC | {"base": base}, params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["spec"]["trials"] == 3
    assert any(item["pointer"].startswith("/base/data") for item in answer.json()["findings"])
    assert api.get(V1, params={"limit": 1}).json()["items"] == before


def test_a_wrong_path_value_or_base_is_refused_by_its_place(api: httpx.Client) -> None:
    def refused(**changes: Any) -> dict[str, str]:
        (error,) = assert_problem(api.post(V1, json=SPEC | changes), 422)["errors"]
        return {"pointer": error["pointer"], "detail": error["detail"]}

    wrong = refused(parameters={"optimizer.learning_rat": {"choices": [1]}})
    assert wrong["pointer"] == "/parameters/optimizer.learning_rat"
    assert "did you mean 'learning_rate'" in wrong["detail"]
    assert refused(parameters={RATE: {"choices": [-1]}})["pointer"] == f"/parameters/{RATE}"
    assert refused(base=BASE | {"data": TOY["data"] | {"batch_size": 9}, "resources": {"workers": 2}})["pointer"] == (
        "/base/data/batch_size"
    )
    assert "did you mean 'optimizer'" in refused(base=BASE | {"optimiser": {}})["detail"]


def test_a_sweep_is_cancelled_changed_and_deleted_and_its_jobs_stay(
    api: httpx.Client, dispatching: Dispatching
) -> None:
    sweep = begin(api, dispatching)
    path = f"{V1}/{sweep['id']}"
    assert_problem(api.delete(path), 409)
    cancelled = api.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert api.post(f"{path}/cancel").json()["updated_at"] == cancelled.json()["updated_at"]
    dispatching.carry_on()
    read = api.get(path).json()
    assert [(trial["state"], trial["job_state"]) for trial in read["trials"]] == [("cancelled", "cancelled")] * 3
    changed = api.patch(path, json={"name": "again", "labels": {"team": None, "exp": "1"}}).json()
    assert (changed["name"], changed["labels"]) == ("again", {"exp": "1"})
    assert api.delete(path).status_code == 204
    assert_problem(api.get(path), 404)
    assert api.get(f"/api/v1/jobs/{read['trials'][0]['job']}").status_code == 200


def test_a_pruned_job_says_so_and_is_no_failure(api: httpx.Client, dispatching: Dispatching) -> None:
    sweep = begin(api, dispatching)
    job_id = sweep["trials"][0]["job"]
    with dispatching.database.session() as session:
        requests.prune(session, jobs.lock(session, job_id), actor="dispatcher", message="why", data={"step": 1})
    job = api.get(f"/api/v1/jobs/{job_id}").json()
    assert (job["state"], job["reason"], job["failure"]) == ("cancelled", "pruned", None)
    named = {event["name"]: event for event in api.get(f"/api/v1/jobs/{job_id}/events").json()["items"]}
    assert (named["prune_requested"]["message"], named["cancelled"]["data"]) == ("why", {"reason": "pruned"})
    dispatching.carry_on()
    assert api.get(f"{V1}/{sweep['id']}").json()["trials"][0]["state"] == "pruned"


def test_the_client_and_the_command_do_all_that_the_api_does(
    api: httpx.Client, api_server: ApiServer, dispatching: Dispatching, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(SPEC, sort_keys=False))
    made = symadj(api_server, "sweep", str(file), "--key", uuid4().hex)
    sweep_id = made.stdout.strip()
    dispatching.carry_on()
    with Client(api_server.url) as ours:
        read = ours.sweep(sweep_id)
        assert sweep_id in [item.id for item in ours.sweeps(state="running").items]
        for trial, nll in zip(read.trials, (2.5, 1.5, 3.5), strict=True):
            dispatching.end(trial.job or "", nll)
        dispatching.carry_on()
        assert ours.sweep_table(sweep_id).decode().splitlines()[2].startswith("1,succeeded,1.5,0.01")
    shown = symadj(api_server, "sweep", "show", sweep_id, "-f").stdout
    assert "trial 1 succeeded: validation_nll 1.5" in shown
    assert "3 of 3 trials by grid: 3 succeeded" in shown
    assert "best: trial 1, validation_nll 1.5" in shown
    assert f"--set {RATE}=0.01 --set 'flow.field.hidden=[8]'" in shown, "as a shell takes it"
    (line,) = (line for line in symadj(api_server, "sweeps").stdout.splitlines() if sweep_id in line)
    assert line.split()[1:4] == ["rates", "succeeded", "3/3"]
    assert "exp=1" in symadj(api_server, "sweep", "label", sweep_id, "exp=1").stdout
    refused = symadj(api_server, "sweep", "cancel", sweep_id)
    assert refused.returncode == 1
    assert "nothing to cancel" in refused.stderr
    assert "deleted" in symadj(api_server, "sweep", "delete", sweep_id).stdout
    dry = symadj(api_server, "sweep", str(file), "--dry-run", "--set", "parallel=2")
    assert "3 trials, at most 2 at once." in dry.stdout
    assert dry.stdout.count("Data as read from") == 1, "the trials read the same"


def test_the_example_is_a_sweep(api: httpx.Client) -> None:
    document = yaml.safe_load((ROOT / "examples" / "sweep.yaml").read_text())
    answer = api.post(V1, json=json.loads(json.dumps(document)))
    assert answer.status_code == 201, answer.text
    assert answer.json()["findings"] == []
    api.post(f"{V1}/{answer.json()['id']}/cancel")
