"""Jobs over HTTP, on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from symadj.service.contract.spec.objective import FlowMatching
from symadj.service.contract.spec.usual import USUAL_TRAINING
from tests.api.conftest import Run
from tests.api.routes import endpoints

TOY = {"data": {"kind": "toy", "name": "moons"}}
Submit = Callable[..., dict[str, Any]]


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["instance"] == response.request.url.path
    assert {"type", "title", "detail", "errors"} <= problem.keys()
    return problem


def test_a_created_job_is_queued_with_its_whole_spec_and_a_location(api: httpx.Client) -> None:
    response = api.post("/api/v1/jobs", json=TOY)
    assert response.status_code == 201
    job = response.json()
    assert job["state"] == "queued"
    assert job["spec"]["gradient"] == {"kind": "symplectic", "keep": {"kind": "stages"}}
    assert job["spec"]["pretraining"] == FlowMatching(**USUAL_TRAINING["pretraining"]).model_dump(mode="json")
    assert job["progress"]["max_steps"] == USUAL_TRAINING["stop"]["max_steps"]
    assert api.get(response.headers["location"]).json() | {"findings": []} == job


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({}, "/data", "required"),
        (TOY | {"gradient": {"kind": "magic"}}, "/gradient", "symplectic"),
        (TOY | {"solver": {"kind": "adaptive", "rtol": -1}}, "/solver/rtol", "greater than 0"),
        (
            TOY | {"flow": {"kind": "cnf", "field": {"hidden": [64, 0]}}},
            "/flow/field/hidden/1",
            "greater than or equal to 1",
        ),
        (TOY | {"steps": 5}, "/steps", "is not a field"),
        (
            {"data": TOY["data"] | {"batch_size": 500}, "resources": {"workers": 3}},
            "/data/batch_size",
            "multiple of resources.workers 3",
        ),
    ],
)
def test_a_wrong_spec_is_refused_naming_the_field(api: httpx.Client, body: Any, pointer: str, words: str) -> None:
    problem = assert_problem(api.post("/api/v1/jobs", json=body | {"name": "refused"}), 422)
    (error,) = problem["errors"]
    assert (error["location"], error["pointer"]) == ("body", pointer)
    assert words in error["detail"]
    assert api.get("/api/v1/jobs", params={"name": "refused"}).json()["items"] == []


def test_a_body_that_is_not_json_is_refused(api: httpx.Client) -> None:
    response = api.post("/api/v1/jobs", content=b"{data: toy", headers={"Content-Type": "application/json"})
    assert "not JSON" in assert_problem(response, 422)["detail"]


def test_a_form_as_curl_sends_it_by_default_is_told_the_header(api: httpx.Client) -> None:
    response = api.post("/api/v1/jobs", content=b"{}", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert "Content-Type: application/json" in assert_problem(response, 415)["detail"]


def test_a_number_beyond_all_bounds_is_refused_and_nothing_is_stored(api: httpx.Client) -> None:
    body = TOY | {"name": "beyond", "resources": {"kind": "cpu", "memory_budget": int("9" * 400)}}
    assert_problem(api.post("/api/v1/jobs", json=body), 422)
    assert api.get("/api/v1/jobs", params={"name": "beyond"}).json()["items"] == []


def test_a_memory_budget_that_not_even_an_idle_worker_keeps_is_refused_with_the_numbers(api: httpx.Client) -> None:
    refused = api.post("/api/v1/jobs", json=TOY | {"resources": {"memory_budget": "100MiB"}})
    problem = assert_problem(refused, 422)
    assert "100.0MiB is less than the" in problem["detail"]
    assert [error["pointer"] for error in problem["errors"]] == ["/resources/memory_budget"]


def test_a_request_repeated_under_its_key_makes_one_job(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    first = api.post("/api/v1/jobs", json=TOY, headers=headers)
    second = api.post("/api/v1/jobs", json=TOY, headers=headers)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    other = api.post("/api/v1/jobs", json=TOY | {"seed": 1}, headers=headers)
    assert first.json()["id"] in assert_problem(other, 422)["detail"]


def test_requests_at_once_under_one_key_make_one_job(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post("/api/v1/jobs", json=TOY, headers=headers), range(8)))
    assert sorted({answer.status_code for answer in answers}) == [200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_lists_are_filtered_and_paged(api: httpx.Client, submit: Submit) -> None:
    team = str(uuid4())
    ids = [submit(labels={"team": team}, name=name)["id"] for name in ("a", "b", "a", "b", "a")]
    api.post(f"/api/v1/jobs/{ids[0]}/cancel")

    def listed(**filters: Any) -> list[str]:
        answer = api.get("/api/v1/jobs", params={"label": f"team={team}", **filters})
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["items"]]

    assert listed() == ids[::-1]
    assert listed(name="a") == [ids[4], ids[2], ids[0]]
    assert listed(state=["queued"]) == ids[:0:-1]
    assert listed(state=["cancelled", "running"]) == [ids[0]]
    pages, after = [], None
    while True:
        parameters = {"label": f"team={team}", "limit": 2} | ({"after": after} if after else {})
        page = api.get("/api/v1/jobs", params=parameters).json()
        pages.append([job["id"] for job in page["items"]])
        after = page["next_after"]
        if not page["has_more"]:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [job_id for page in pages for job_id in page] == ids[::-1]


def test_bad_parameters_of_a_list_are_named(api: httpx.Client) -> None:
    for parameters, name in (
        ({"limit": 0}, "limit"),
        ({"state": "sleeping"}, "state.0"),
        ({"after": "not-a-cursor"}, "after"),
        ({"label": "no equals sign"}, "label"),
        ({"label": "a\\b\0=x"}, "label"),
    ):
        problem = assert_problem(api.get("/api/v1/jobs", params=parameters), 422)
        assert problem["errors"][0]["pointer"] == name


def test_cancel_and_delete_follow_the_state(api: httpx.Client, submit: Submit) -> None:
    job_id = submit()["id"]
    assert "cancel it first" in assert_problem(api.delete(f"/api/v1/jobs/{job_id}"), 409)["detail"]
    assert api.post(f"/api/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert api.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 202
    assert api.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    assert_problem(api.get(f"/api/v1/jobs/{job_id}"), 404)


@pytest.mark.parametrize(
    "path",
    ["", "/events", "/metrics", "/metrics/loss", "/memory", "/memory/steps", "/artifacts", "/attempts", "/checkpoints"],
)
def test_an_unknown_job_is_a_404_everywhere(api: httpx.Client, path: str) -> None:
    assert "job-none" in assert_problem(api.get(f"/api/v1/jobs/job-none{path}"), 404)["detail"]


def test_what_is_not_there_and_what_is_not_allowed_are_problems_too(api: httpx.Client) -> None:
    assert_problem(api.get("/api/v2/jobs"), 404)
    assert_problem(api.put("/api/v1/jobs"), 405)


def test_a_405_names_every_method_of_its_path(api: httpx.Client) -> None:
    methods: dict[str, set[str]] = {}
    for endpoint in endpoints():
        methods.setdefault(endpoint.at("job-1"), set()).add(endpoint.method)
    for path, known in methods.items():
        answer = api.request("PROPFIND", path)
        assert_problem(answer, 405)
        assert {name.strip() for name in answer.headers["allow"].split(",")} - {"HEAD"} == known
        assert ("HEAD" in answer.headers["allow"]) == ("GET" in known)


def test_json_that_python_gives_up_on_is_refused_with_its_place(api: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    long = '{"data": {"kind": "toy", "name": "moons"}, "flow": {"field": {"hidden": [8, ' + "9" * 5000 + "]}}}"
    (error,) = assert_problem(api.post("/api/v1/jobs", content=long, headers=headers), 422)["errors"]
    assert error["pointer"] == "/flow/field/hidden/1"
    assert "digits" in error["detail"]
    deep = '{"data": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (error,) = assert_problem(api.post("/api/v1/jobs", content=deep, headers=headers), 422)["errors"]
    assert "nested too deeply" in error["detail"]


def test_a_body_is_json_by_its_one_name(api: httpx.Client) -> None:
    for name, status in (("text/json", 415), ("application/json; charset=utf-8", 201)):
        answer = api.post("/api/v1/jobs", content=json.dumps(TOY), headers={"Content-Type": name})
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"data": {"kind": "toy", "name": "moons", "rows": True}}, "/data/rows"),
        ({"flow": {"field": {"hidden": [8, True]}}}, "/flow/field/hidden/1"),
        ({"optimizer": {"schedule": {"warmup_steps": True}}}, "/optimizer/schedule/warmup_steps"),
    ],
)
def test_a_flag_for_a_number_is_named_by_its_field(api: httpx.Client, change: dict[str, Any], pointer: str) -> None:
    (error,) = assert_problem(api.post("/api/v1/jobs", json=TOY | change), 422)["errors"]
    assert error["pointer"] == pointer


def test_the_form_of_a_label_is_in_the_schema(api: httpx.Client) -> None:
    parameters = api.get("/openapi.json").json()["paths"]["/api/v1/jobs"]["get"]["parameters"]
    (label,) = [parameter for parameter in parameters if parameter["name"] == "label"]
    pattern = label["schema"]["anyOf"][0]["items"]["pattern"]
    for text in ("team=x", "a/b.c=", "no equals sign", "=x", "-a=x"):
        accepted = api.get("/api/v1/jobs", params={"label": text}).status_code == 200
        assert (re.search(pattern, text) is not None) == accepted, text


def test_a_job_is_cloned_with_a_merge_patch_of_its_spec(api: httpx.Client, submit: Submit) -> None:
    job = submit(optimizer={"kind": "adamw", "learning_rate": 0.5}, labels={"team": "x"}, ema={"decay": 0.5})
    patch: dict[str, Any] = {"optimizer": {"learning_rate": 0.25, "weight_decay": None}, "ema": None}
    patch["labels"] = {"team": None, "a": "b"}
    headers = {"Content-Type": "application/merge-patch+json", "Idempotency-Key": f"clone-{job['id']}"}
    made = api.post(f"/api/v1/jobs/{job['id']}/clone", content=json.dumps(patch), headers=headers)
    assert made.status_code == 201, made.text
    spec = made.json()["spec"]
    optimizer = job["spec"]["optimizer"] | {"learning_rate": 0.25, "weight_decay": 0.01}
    assert spec == job["spec"] | {"optimizer": optimizer, "ema": None, "labels": {"a": "b"}}
    assert made.headers["location"].endswith(made.json()["id"])
    again = api.post(f"/api/v1/jobs/{job['id']}/clone", content=json.dumps(patch), headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    wrong = api.post(f"/api/v1/jobs/{job['id']}/clone", json={"optimizer": {"kind": "sgd"}})
    assert {error["pointer"] for error in assert_problem(wrong, 422)["errors"]} >= {"/optimizer/betas"}
    assert_problem(api.post(f"/api/v1/jobs/{job['id']}/clone", json=["no patch"]), 422)


def test_a_failed_or_cancelled_job_is_tried_again_as_a_new_one(
    api: httpx.Client, submit: Submit, new_run: Callable[..., Run]
) -> None:
    waiting = submit(labels={"a": "b"})
    path = f"/api/v1/jobs/{waiting['id']}"
    assert "queued" in assert_problem(api.post(f"{path}/retry"), 409)["detail"]
    api.post(f"{path}/cancel")
    made = api.post(f"{path}/retry")
    assert made.status_code == 201, made.text
    assert (made.json()["spec"], made.json()["state"]) == (waiting["spec"], "queued")
    failed = new_run()
    failed.end("failed", reason="diverged", message="it did")
    assert failed.post("/retry").status_code == 201
    assert failed.get("").json()["state"] == "failed"


def test_the_name_and_labels_of_a_job_are_changed_by_a_merge_patch(api: httpx.Client, submit: Submit) -> None:
    job = submit(name="before", labels={"team": "x", "gone": "1"})
    path = f"/api/v1/jobs/{job['id']}"
    changed = api.patch(path, json={"name": "after", "labels": {"gone": None, "new": "2"}})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["name"], changed.json()["labels"]) == ("after", {"team": "x", "new": "2"})
    assert changed.json()["spec"] == job["spec"] | {"name": "after", "labels": {"team": "x", "new": "2"}}
    found = api.get("/api/v1/jobs", params={"label": "new=2"}).json()["items"]
    assert job["id"] in {item["id"] for item in found}
    assert api.patch(path, json={"labels": None, "name": None}).json()["labels"] == {}
    assert api.patch(path, json={}).json()["name"] == "flow"
    refused = assert_problem(api.patch(path, json={"priority": 3}), 422)
    assert refused["errors"][0]["pointer"] == "/priority"
    assert_problem(api.patch(path, content="name: x"), 415)
