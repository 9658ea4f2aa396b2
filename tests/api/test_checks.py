"""What is said of a job when it is submitted, and not only when its turn comes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from rich.console import Console

from symadj.api.app import create_app
from symadj.api.cli.render import cluster_parts
from symadj.api.cli.results import print_parts
from symadj.api.schemas.service import ClusterRead
from symadj.service.contract.flow_question import FlowAnswer, FlowOutcome, NodeCheck, PlanQuestion, frame
from symadj.service.lifecycle import attempts
from symadj.service.settings import Settings
from symadj.service.store import jobs
from tests.conftest import TOY
from tests.service.ray_server import RayServer

JOBS = "/api/v1/jobs"
ABSENT = {"data": {"kind": "file", "path": "absent.csv", "test_path": "also_absent.csv"}}
ON_A_GPU = TOY | {"resources": {"kind": "gpu", "workers": 1}}

MakeClient = Callable[..., TestClient]


@pytest.fixture
def ray() -> Iterator[RayServer]:
    """A cluster of one node with two CPUs."""
    server = RayServer()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def new_client(tmp_path: Path, ray: RayServer) -> Iterator[MakeClient]:
    """An API in this process, with changes of its settings."""
    with ExitStack() as stack:

        def make(**changes: Any) -> TestClient:
            settings = Settings(**{"data": tmp_path, "ray_address": ray.url} | changes)
            return stack.enter_context(TestClient(create_app(settings), base_url="http://127.0.0.1"))

        yield make


def found(client: TestClient, spec: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Submit a job; return what was found of it, by pointer."""
    made = client.post(JOBS, json=spec)
    assert made.status_code == 201, made.text
    return {item["pointer"]: (item["severity"], item["detail"]) for item in made.json()["findings"]}


def test_a_job_whose_files_are_not_there_is_accepted_and_told_so(new_client: MakeClient, tmp_path: Path) -> None:
    client = new_client()
    told = found(client, ABSENT)
    assert told.keys() == {"/data/path", "/data/test_path"}
    severity, detail = told["/data/path"]
    assert severity == "error"
    assert "absent.csv" in detail
    assert str(tmp_path / "datasets") in detail
    (tmp_path / "datasets").mkdir()
    for name in ("absent.csv", "also_absent.csv"):
        (tmp_path / "datasets" / name).write_text("x\n1\n")
    assert found(client, ABSENT) == {}


def test_a_job_that_no_node_can_take_is_told_so_more_mildly_where_the_cluster_may_grow(new_client: MakeClient) -> None:
    client = new_client()
    severity, detail = found(client, ON_A_GPU)["/resources"]
    assert severity == "error"
    assert "1 GPU" in detail
    assert found(client, TOY) == {}
    severity, _ = found(new_client(cluster_may_grow=True), ON_A_GPU)["/resources"]
    assert severity == "warning"


@pytest.mark.parametrize(
    "settings", [{"ray_address": "http://head.example:8265"}, {"data_roots": "s3://bucket/data"}], ids=str
)
def test_nothing_is_said_of_files_where_the_workers_have_others(
    new_client: MakeClient, settings: dict[str, str]
) -> None:
    assert "/data/path" not in found(new_client(**settings), ABSENT)


# A path that only the workers know, and what a process on their node finds of it.
ELSEWHERE = {"data": {"kind": "file", "path": "cells.csv"}}
WRONG_COLUMN = {"pointer": "/data/columns", "severity": "error", "detail": "cells.csv has no column 'c'"}


def test_on_a_cluster_the_data_are_looked_at_by_a_process_on_the_node_with_the_most_room(
    new_client: MakeClient, ray: RayServer, tmp_path: Path
) -> None:
    ray.nodes, ray.held = 3, [("id-1", {"CPU": 2.0}), ("id-3", {"CPU": 1.0})]
    asked: list[NodeCheck] = []

    def answer(job: dict[str, Any]) -> None:
        assert job["entrypoint"].endswith("symadj.workers.node_check")
        assert job["entrypoint_label_selector"] == {"ray.io/node-id": "id-2"}
        folder = Path(job["runtime_env"]["env_vars"][NodeCheck.PLACE_VARIABLE])
        asked.append(NodeCheck.model_validate_json((folder / NodeCheck.FILE).read_bytes()))
        framed = frame(FlowAnswer(outcome=FlowOutcome.DONE), json.dumps({"findings": [WRONG_COLUMN]}).encode())
        (folder / NodeCheck.ANSWER).write_bytes(framed)

    ray.run = answer
    client = new_client(check_on="ray", data_roots="/data:/more")
    checked = client.post(JOBS, params={"dry_run": True}, json=ELSEWHERE)
    assert checked.json()["findings"] == [WRONG_COLUMN]
    refused = client.post(JOBS, params={"strict": True}, json=ELSEWHERE)
    assert (refused.status_code, refused.json()["findings"]) == (422, [WRONG_COLUMN])
    assert [check.question.roots for check in asked] == [("/data", "/more")] * 2
    assert not [*tmp_path.glob("jobs/job-*"), *tmp_path.glob("jobs/.uploads/*")], "of the checks nothing is left"
    assert found(client, ELSEWHERE) == {}, "what takes seconds is not waited for"


def test_a_plan_on_a_cluster_has_its_data_read_on_a_node_and_says_why_none_did(
    new_client: MakeClient, ray: RayServer
) -> None:
    asked: list[NodeCheck] = []
    answers = iter([FlowAnswer(outcome=FlowOutcome.DONE), FlowAnswer(outcome=FlowOutcome.REFUSED, message="no 'c'")])

    def answer(job: dict[str, Any]) -> None:
        folder = Path(job["runtime_env"]["env_vars"][NodeCheck.PLACE_VARIABLE])
        asked.append(NodeCheck.model_validate_json((folder / NodeCheck.FILE).read_bytes()))
        (folder / NodeCheck.ANSWER).write_bytes(frame(next(answers), b'{"columns": 2}'))

    client = new_client(check_on="ray", check_seconds=0.5, data_roots="/data:/more", data_cache="/cache")
    ray.run = answer
    planned = client.post("/api/v1/plans", json=ELSEWHERE)
    assert (planned.status_code, planned.json()) == (200, {"columns": 2})
    refused = client.post("/api/v1/plans", json=ELSEWHERE)
    assert (refused.status_code, refused.json()["detail"]) == (422, "no 'c'")
    for check in asked:
        question = check.question
        assert isinstance(question, PlanQuestion)
        assert (question.roots, question.cache, question.columns) == (("/data", "/more"), "/cache", None)
        assert question.available_bytes
    ray.run = None
    late = client.post("/api/v1/plans", json=ELSEWHERE)
    assert (late.status_code, late.json()["type"].rpartition(":")[2]) == (503, "data-out-of-reach")
    assert "within 0.5 s (on node 10.0.0.1)" in late.json()["detail"]
    assert "say how many columns" in late.json()["detail"]


def test_data_that_no_node_looked_at_in_time_are_a_warning_and_refuse_no_job(
    new_client: MakeClient, ray: RayServer
) -> None:
    client = new_client(check_on="ray", check_seconds=0.5)

    def doubt() -> str:
        answer = client.post(JOBS, params={"strict": True}, json=ELSEWHERE)
        assert answer.status_code == 201, answer.text
        (doubt,) = answer.json()["findings"]
        assert (doubt["pointer"], doubt["severity"]) == ("/data", "warning")
        return str(doubt["detail"])

    assert "within 0.5 s (on node 10.0.0.1)" in doubt()
    ray.run = lambda job: job.update(status="FAILED")
    assert "ended: Traceback: it broke" in doubt()
    assert ray.stopped == [*ray.jobs], "nobody waits for what they find any more"
    ray.refusal = "Ray is not ready"
    assert "Ray is not ready" in doubt()


def test_the_data_are_looked_at_on_a_node_for_workers_though_all_are_full_and_the_head_is_not(
    new_client: MakeClient, ray: RayServer
) -> None:
    ray.head, ray.held = True, [("id-1", {"CPU": 2.0, "memory": 2.0**32})]
    nodes: list[Any] = []

    def begin(job: dict[str, Any]) -> None:
        nodes.append(job["entrypoint_label_selector"]["ray.io/node-id"])
        job.update(status="FAILED")

    ray.run = begin
    new_client(check_on="ray").post(JOBS, params={"dry_run": True}, json=ELSEWHERE)
    assert nodes == ["id-1"]


def test_a_look_that_ray_begins_when_its_time_is_over_is_stopped_after_that(
    new_client: MakeClient, ray: RayServer
) -> None:
    begun = threading.Event()
    stopped_before: list[str] = []

    def begin(_: dict[str, Any]) -> None:
        threading.Event().wait(0.5)
        stopped_before.extend(ray.stopped)
        begun.set()

    ray.run = begin
    checked = new_client(check_on="ray", check_seconds=0.1).post(JOBS, params={"dry_run": True}, json=ELSEWHERE)
    assert "within 0.1 s" in checked.json()["findings"][0]["detail"]
    assert begun.wait(10)
    assert stopped_before == [], "Ray would know no such job yet"
    assert ray.stopped == [*ray.jobs]


def test_where_no_node_is_for_workers_no_data_are_looked_at(new_client: MakeClient, ray: RayServer) -> None:
    ray.cpus = 0.0
    answer = new_client(check_on="ray", cluster_may_grow=True).post(JOBS, params={"dry_run": True}, json=ELSEWHERE)
    assert "no node for workers" in answer.json()["findings"][0]["detail"]
    assert not ray.jobs


def test_the_cluster_says_what_is_free_on_each_node_whoever_holds_the_rest(
    new_client: MakeClient, ray: RayServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.nodes = 3
    ray.held = [("id-1", {"CPU": 1.0}), ("id-3", {"CPU": 0.5, "memory": 2.0**32}), ("id-3", {"CPU": 1.0})]
    read = new_client().get("/api/v1/cluster").json()
    assert [(node["name"], node["cpus"], node["free"]["cpus"]) for node in read["nodes"]] == [
        ("10.0.0.1", 2, 1),
        ("10.0.0.2", 2, 2),
        ("10.0.0.3", 2, 0.5),
    ]
    assert [node["free"]["memory"] / node["memory"] for node in read["nodes"]] == [1, 1, 0.5]
    print_parts(Console(width=80), cluster_parts(ClusterRead.model_validate(read)))
    assert "10.0.0.3 0.5 2 0 0 4.00 GiB 8.00 GiB" in re.sub(" +", " ", capsys.readouterr().out)


def test_the_cluster_is_shown_with_what_active_jobs_hold(new_client: MakeClient) -> None:
    client = new_client()
    made = client.post(JOBS, json=TOY | {"resources": {"cpus_per_worker": 2, "memory_budget": "1GiB"}}).json()
    second = client.post(JOBS, json=TOY | {"name": "second"}).json()
    waits = client.get("/api/v1/cluster").json()
    assert waits["queued"] == 2
    assert [(job["place"], job["id"], job["name"]) for job in waits["waiting"]] == [
        (1, made["id"], "flow"),
        (2, second["id"], "second"),
    ]
    assert waits["waiting"][1]["reason"] == "1 job is ahead of it in the queue."
    client.post(f"{JOBS}/{second['id']}/cancel")
    with cast(FastAPI, client.app).state.database.session() as session:
        assert attempts.claim(session, jobs.lock(session, made["id"]), actor="d", lease_seconds=60)
    read = client.get("/api/v1/cluster").json()
    assert [node["cpus"] for node in read["nodes"]] == [read["total"]["cpus"]]
    assert (read["total"]["cpus"], read["used"], read["queued"]) == (2, {"cpus": 2, "gpus": 0, "memory": 2**30}, 0)
    (active,) = read["active"]
    assert (active["id"], active["workers"], active["held"]) == (made["id"], 1, read["used"])
    absent = new_client(ray_address="http://127.0.0.1:9").get("/api/v1/cluster").json()
    assert (absent["nodes"], absent["total"]) == (None, None)
