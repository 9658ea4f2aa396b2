"""The plan that a job in the queue has, before there is a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import NOW, child, runs_of
from tests.conftest import TOY, ApiServer, running_api
from tests.service.lives import plan
from tests.service.ray_server import RayServer

PATIENCE_SECONDS = 120
SPEC: dict[str, Any] = TOY | {"flow": {"blocks": 1, "field": {"hidden": [4]}}, "stop": {"max_steps": 1}}


@pytest.fixture(scope="module")
def ray() -> Iterator[RayServer]:
    """A cluster of one node with two CPUs and 8 GiB."""
    server = RayServer()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ray: RayServer) -> Iterator[ApiServer]:
    settings = {"SYMADJ_PLAN_SUBMITTED": "true", "SYMADJ_RAY_ADDRESS": ray.url}
    with running_api(tmp_path_factory.mktemp("api"), **settings) as server:
        yield server


@pytest.fixture(scope="module")
def api(server: ApiServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        yield client


def submit(api: httpx.Client, **changes: Any) -> str:
    answer = api.post("/api/v1/jobs", json=SPEC | changes)
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def planned(api: httpx.Client, job_id: str) -> dict[str, Any]:
    """Return the plan of a job once it is there; long polls keep the pace."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := api.get(f"/api/v1/jobs/{job_id}").json()["plan"]) is None:
        assert time.monotonic() < deadline, "it was not planned"
        api.get(f"/api/v1/jobs/{job_id}/metrics/loss", params={"wait": 0.1})
    plan: dict[str, Any] = found
    return plan


def test_a_job_in_the_queue_has_a_plan_and_is_told_that_it_exceeds_the_budget(api: httpx.Client) -> None:
    data = TOY["data"] | {"rows": 2_000_000, "batch_size": 1_000_000}
    job_id = submit(api, data=data, resources={"memory_budget": "500MiB"}, gradient={"kind": "backprop"})
    found = planned(api, job_id)
    assert (found["attempt"], found["measured_bytes"]) == (0, None)
    assert [item["gradient"]["kind"] for item in found["plan"]["gradients"]] == ["backprop"]
    told = [e for e in api.get(f"/api/v1/jobs/{job_id}/events").json()["items"] if e["actor"] == "api"]
    (told,) = [event for event in told if event["name"] == "memory_budget_too_small"]
    least = found["plan"]["gradients"][0]["peaks"][0]["worker_bytes"]
    assert told["data"] == {"planned_bytes": least, "memory_budget_bytes": 500 * 2**20}
    assert "resources.memory_budget is 500 MiB" in told["message"]


def test_a_plan_says_whether_the_nodes_have_room_for_the_workers(api: httpx.Client) -> None:
    data = TOY["data"] | {"rows": 2_000_000, "batch_size": 1_000_000}
    found = planned(api, submit(api, data=data, resources={"workers": 2}, gradient={"kind": "backprop"}))["plan"]
    assert found["available_bytes"] == 4 * 2**30, "each has half of the node"
    peaks = found["gradients"][0]["peaks"]
    fits = [peak["fits_workers"] for peak in peaks]
    assert fits == [peak["worker_bytes"] <= 4 * 2**30 for peak in peaks]
    assert (fits[0], fits[-1]) == (True, False)


def test_every_job_of_a_comparison_has_a_plan_of_its_own_gradient(api: httpx.Client) -> None:
    gradients = [{"kind": "symplectic"}, {"kind": "aca"}]
    answer = api.post("/api/v1/comparisons", json={"spec": SPEC, "gradients": gradients})
    assert answer.status_code == 201, answer.text
    plans = [planned(api, item["job"])["plan"]["gradients"] for item in answer.json()["gradients"]]
    assert [[item["gradient"]["kind"] for item in plan] for plan in plans] == [["symplectic"], ["aca"]]


def test_of_many_jobs_at_once_the_newest_are_planned_and_the_others_by_their_runs(
    api: httpx.Client, server: ApiServer
) -> None:
    planned(api, submit(api))
    process = child(server)
    process.suspend()
    try:
        submitted = [submit(api) for _ in range(12)]
    finally:
        process.resume()
    # One may have been taken as it came. Of the others the newest eight waited, and of these the newest is the last.
    planned(api, submitted[-1])
    with_plan = [api.get(f"/api/v1/jobs/{job_id}").json()["plan"] is not None for job_id in submitted]
    assert all(with_plan[-8:])
    assert sum(with_plan) <= 9


def test_a_runs_own_plan_takes_its_place(api: httpx.Client, server: ApiServer) -> None:
    job_id = submit(api)
    assert planned(api, job_id)["attempt"] == 0
    with runs_of(server, api) as make:
        make(job_id).send({"kind": "plan", "time": NOW, "plan": plan().stored()})
    assert planned(api, job_id)["attempt"] == 1
