"""Pauses, attempts and checkpoints over HTTP: what users ask for, beside what runs tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from fastapi.testclient import TestClient

from symadj.api.app import create_app
from symadj.service.contract.states import ReasonCode
from symadj.service.settings import Settings
from tests.api.conftest import NOW, Run, checkpoint, runs_of
from tests.api.test_jobs import Submit, assert_problem
from tests.conftest import TOY, running_api

# It says something about its training, so that what goes on from it may say something else.
TRAINED: dict[str, Any] = {"optimizer": {"learning_rate": 1e-3}}


def test_a_waiting_job_is_paused_and_resumed_at_once(api: httpx.Client, submit: Submit) -> None:
    path = f"/api/v1/jobs/{submit()['id']}"
    paused = api.post(f"{path}/pause")
    assert (paused.status_code, paused.json()["state"]) == (202, "paused")
    assert api.post(f"{path}/pause").json()["state"] == "paused", "twice is no error"
    assert api.post(f"{path}/resume").json()["state"] == "queued"
    assert "only a paused job" in assert_problem(api.post(f"{path}/resume"), 409)["detail"]
    assert "only a job that runs" in assert_problem(api.post(f"{path}/checkpoint"), 409)["detail"]


def test_a_running_job_is_told_to_pause_and_is_paused_when_it_says_so(run: Run) -> None:
    answer = run.send({"kind": "event", "time": NOW, "name": "training_started", "message": "go"}).json()
    assert answer["stop"] is None
    pausing = run.post("/pause").json()
    assert (pausing["state"], pausing["stop_requested"]) == ("pausing", "pause")
    assert pausing["stop_requested_at"] is not None
    assert "wait until it is paused" in assert_problem(run.post("/resume"), 409)["detail"]
    assert run.send(checkpoint(7, cause="stopped")).json()["stop"] == "pause"
    run.end("paused")
    job = run.get("").json()
    assert (job["state"], job["stop_requested"], job["attempts_lost"]) == ("paused", None, 0)
    assert [attempt["outcome"] for attempt in run.get("/attempts").json()["items"]] == ["paused"]
    assert run.post("/resume").json()["state"] == "queued"


def test_a_checkpoint_that_was_asked_for_is_listed_when_it_is_written(run: Run) -> None:
    before = run.send(checkpoint(3)).json()["checkpoints_asked"]
    assert run.post("/checkpoint").status_code == 202
    told = run.send(checkpoint(5, cause="asked", validation_nll=2.5, removed=[checkpoint(3)["name"]])).json()
    assert told["checkpoints_asked"] == before + 1
    (item,) = run.get("/checkpoints").json()["items"]
    assert (item["step"], item["cause"], item["validation_nll"], item["attempt"]) == (5, "asked", 2.5, 1)
    assert Path(item["path"]) == run.server.data / "jobs" / run.job_id / "checkpoints" / checkpoint(5)["name"]


def test_a_lost_attempt_is_told_with_its_reason_and_the_job_waits_for_the_next(run: Run) -> None:
    run.send({"kind": "resumed", "time": NOW, "step": 40, "checkpoint": "step-000000040-attempt-1"})
    run.lose(ReasonCode.WORKER_LOST, "rank-1 was silent for 60 s.")
    job = run.get("").json()
    assert (job["state"], job["attempt"], job["attempts_lost"], job["failure"]) == ("queued", 1, 1, None)
    assert job["not_before"] > job["created_at"]
    (attempt,) = run.get("/attempts").json()["items"]
    assert (attempt["outcome"], attempt["reason"]) == ("lost", "worker_lost")
    assert attempt["message"] == "rank-1 was silent for 60 s."
    assert attempt["resumed_from_step"] == 40
    listed = run.api.get("/api/v1/jobs", params={"limit": 1000}).json()["items"]
    assert {item["id"]: item["attempts_lost"] for item in listed}[run.job_id] == 1


def test_a_job_that_goes_on_from_a_checkpoint_names_it(
    new_run: Callable[..., Run], api: httpx.Client, submit: Submit
) -> None:
    run = new_run(**TRAINED)
    run.write_checkpoint(10)
    run.write_checkpoint(20)
    run.end("succeeded", result={})
    child = submit(**TRAINED | {"parent": {"job": run.job_id, "step": 10}, "optimizer": {"learning_rate": 1e-4}})
    assert child["parent"] == {"job": run.job_id, "checkpoint": checkpoint(10)["name"]}
    assert submit(**TRAINED, parent={"job": run.job_id})["parent"]["checkpoint"] == checkpoint(20)["name"], "the newest"
    assert api.delete(f"/api/v1/jobs/{run.job_id}").status_code == 204
    own = run.server.data / "jobs" / child["id"] / "checkpoints" / "step-000000010-attempt-0" / "manifest.json"
    assert own.exists(), "it does not need its parent any more"


def test_a_parent_that_does_not_fit_is_refused_naming_the_field(run: Run, api: httpx.Client) -> None:
    run.send(checkpoint(10))
    for changes, pointer, words in (
        ({"parent": {"job": "job-none"}}, "/parent/job", "job-none"),
        ({"parent": {"job": run.job_id, "step": 11}}, "/parent/step", "steps 10"),
        ({"parent": {"job": run.job_id}, "flow": {"blocks": 3}}, "/flow/blocks", "flow.blocks is 3 here"),
    ):
        problem = assert_problem(api.post("/api/v1/jobs", json=TOY | changes), 422)
        (error,) = problem["errors"]
        assert (error["location"], error["pointer"]) == ("body", pointer)
        assert words in error["detail"]


def test_an_owner_whose_queue_is_full_is_told_the_numbers(tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path, max_queued_per_owner=2))
    with TestClient(app, base_url="http://127.0.0.1") as api:
        key = {"Idempotency-Key": "first"}
        first = api.post("/api/v1/jobs", json=TOY, headers=key).json()["id"]
        assert api.post("/api/v1/jobs", json=TOY).status_code == 201
        problem = assert_problem(api.post("/api/v1/jobs", json=TOY), 429)
        assert (problem["queued"], problem["max_queued"]) == (2, 2)
        assert api.post("/api/v1/jobs", json=TOY, headers=key).status_code == 200, "a repetition is no new job"
        api.post(f"/api/v1/jobs/{first}/cancel")
        assert api.post("/api/v1/jobs", json=TOY).status_code == 201


def test_an_owner_whose_share_of_the_disk_is_used_up_is_told_the_numbers_and_may_delete(
    tmp_path: Path,
) -> None:
    with running_api(tmp_path, SYMADJ_OWNER_DISK_BYTES="1500B") as server, httpx.Client(base_url=server.url) as api:
        key = {"Idempotency-Key": "first"}
        with runs_of(server, api) as make:
            run = make()
            run.send(checkpoint(10))
            weights = {"kind": "artifact", "time": NOW, "name": "weights.safetensors", "media_type": "text/plain"}
            run.send(weights | {"bytes": 400, "sha256": "0" * 64})
            assert api.post("/api/v1/jobs", json=TOY, headers=key).status_code == 201, "1,400 bytes are held"
            assert run.send(checkpoint(20)).status_code == 200, "a run may write on"
            problem = assert_problem(api.post("/api/v1/jobs", json=TOY), 429)
            assert (problem["held_bytes"], problem["max_bytes"]) == (2400, 1500)
            assert "have 2,400 bytes" in problem["detail"]
            assert "delete jobs that are not needed (symadj delete)" in problem["detail"]
            assert api.post("/api/v1/jobs", json=TOY, headers=key).status_code == 200, "a repetition is no new job"
            run.end("failed", reason="diverged")
            assert api.delete(f"/api/v1/jobs/{run.job_id}").status_code == 204
            assert api.post("/api/v1/jobs", json=TOY).status_code == 201


def test_the_key_of_a_deleted_job_makes_a_new_one(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    path = api.post("/api/v1/jobs", json=TOY, headers=headers).headers["location"]
    api.post(f"{path}/cancel")
    assert api.post("/api/v1/jobs", json=TOY, headers=headers).json()["state"] == "cancelled"
    assert api.delete(path).status_code == 204
    again = api.post("/api/v1/jobs", json=TOY | {"seed": 1}, headers=headers)
    assert (again.status_code, again.json()["state"]) == (201, "queued")


def test_usage_tells_rows_and_bytes(new_run: Callable[..., Run], api: httpx.Client) -> None:
    run = new_run()
    folder = run.server.data / "jobs" / run.job_id / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(5_000_000))
    usage: dict[str, Any] = api.get("/api/v1/usage").json()
    assert usage["jobs"][0] == {"job_id": run.job_id, "bytes": 5_000_000}
    assert usage["jobs_bytes"] >= 5_000_000
    assert usage["rows"]["jobs"] >= 1
    assert usage["store_bytes"] > 0
    assert usage["free_bytes"] > 0
    assert 'symadj_store_rows{table="jobs"}' in api.get("/metrics").text
