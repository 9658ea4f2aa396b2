"""Query parameters: those that an endpoint does not have, those given twice, and labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from symadj.api.client import Client
from tests.api.routes import Endpoint, endpoints
from tests.api.test_jobs import assert_problem
from tests.command import symadj
from tests.conftest import TOY, ApiServer

Submit = Callable[..., dict[str, Any]]
OURS = [endpoint for endpoint in endpoints() if endpoint.dependant is not None]


def send(api: httpx.Client, endpoint: Endpoint, job_id: str, query: str) -> httpx.Response:
    """Send a request that would be carried out without its query."""
    body = TOY if endpoint.path == "/api/v1/jobs" else {"source": "driver", "first_seq": 1, "records": []}
    headers = {"Authorization": "Bearer of-a-run"} if "ingest" in endpoint.path else {}
    sent = {"json": body} if endpoint.has_body else {}
    return api.request(endpoint.method, f"{endpoint.at(job_id)}?{query}", headers=headers, **sent)


@pytest.mark.parametrize("endpoint", OURS, ids=str)
def test_a_mistyped_parameter_is_refused_by_name_and_nothing_is_done(
    api: httpx.Client, submit: Submit, endpoint: Endpoint
) -> None:
    job = submit(name=f"kept {uuid4().hex}")
    problem = assert_problem(send(api, endpoint, job["id"], "sate=failed&x=1"), 422)
    assert [(error["location"], error["pointer"]) for error in problem["errors"]] == [("query", "sate"), ("query", "x")]
    told = problem["errors"][0]["detail"]
    paths = api.get("/openapi.json").json()["paths"]  # the pages of the documentation are not among them
    for parameter in paths.get(endpoint.path, {}).get(endpoint.method.lower(), {}).get("parameters", []):
        assert parameter["in"] != "query" or parameter["name"] in told, "what is allowed is named"
    assert api.get(f"/api/v1/jobs/{job['id']}").json() == job


def test_what_was_meant_is_guessed(api: httpx.Client) -> None:
    problem = assert_problem(api.get("/api/v1/jobs", params={"sate": "failed"}), 422)
    assert "did you mean 'state'" in problem["detail"]


@pytest.fixture(scope="module")
def document(api_server: ApiServer) -> dict[str, Any]:
    """The API's own description."""
    described: dict[str, Any] = httpx.get(f"{api_server.url}/openapi.json", timeout=60).json()
    return described


def parameters(document: dict[str, Any], path: str) -> list[tuple[str, bool]]:
    """Return name, and whether it may be repeated, of every query parameter with which a path is read."""
    return [
        (parameter["name"], "array" in str(parameter["schema"].get("anyOf", "")))
        for parameter in document["paths"].get(path, {}).get("get", {}).get("parameters", [])
        if parameter["in"] == "query"
    ]


@pytest.mark.parametrize("path", sorted({endpoint.path for endpoint in OURS if endpoint.method == "GET"}))
def test_a_second_value_is_refused_where_one_is_taken(
    api: httpx.Client, submit: Submit, document: dict[str, Any], path: str
) -> None:
    values = {"state": ("running", "failed"), "label": ("a=1", "b=2"), "phase": ("forward", "backward")}
    things = {"job_id": submit()["id"], "name": "loss", "sweep_id": "none", "webhook_id": "none"}
    for name, many in parameters(document, path):
        first, second = values.get(name, ("1", "2"))
        answer = api.get(path.format(**things), params=[(name, first), (name, second)])
        if many:
            assert answer.status_code in {200, 404}, answer.text  # a job without these has no such metrics
        else:
            (error,) = assert_problem(answer, 422)["errors"]
            assert (error["location"], error["pointer"]) == ("query", name)
            assert "2 times" in error["detail"]


def test_the_client_refuses_a_filter_that_there_is_not(api_server: ApiServer, submit: Submit) -> None:
    job_id = submit()["id"]
    with Client(api_server.url) as client:
        with pytest.raises(TypeError, match="lable"):
            client.jobs(lable="old")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="after"):
            client.metric(job_id, "loss", after=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (Client.jobs, "/api/v1/jobs"),
        (Client.metric, "/api/v1/jobs/{job_id}/metrics/{name}"),
        (Client.logs, "/api/v1/jobs/{job_id}/logs"),
    ],
)
def test_the_client_has_all_parameters_that_the_api_has(
    document: dict[str, Any], method: Callable[..., Any], path: str
) -> None:
    of_api = {name for name, _ in parameters(document, path)}
    assert of_api
    keywords = inspect.signature(method).parameters.values()
    assert {item.name for item in keywords if item.kind is inspect.Parameter.KEYWORD_ONLY} == of_api


def test_of_several_labels_a_job_has_all(api_server: ApiServer, api: httpx.Client, submit: Submit) -> None:
    team = uuid4().hex
    both = submit(labels={"exp": "gradients", "team": team})["id"]
    one = submit(labels={"team": team})["id"]
    labels = [f"team={team}", "exp=gradients"]
    for order in (labels, labels[::-1]):
        listed = api.get("/api/v1/jobs", params={"label": order}).json()["items"]
        assert [job["id"] for job in listed] == [both]
    assert api.get("/api/v1/jobs", params={"label": [f"team={team}", "team=x"]}).json()["items"] == []
    with Client(api_server.url) as client:
        assert [job.id for job in client.jobs(label=labels).items] == [both]
        assert {job.id for job in client.jobs(label=labels[0]).items} == {both, one}
    listed = symadj(api_server, "list", "--label", labels[0], "--label", labels[1]).stdout
    assert (both in listed, one in listed) == (True, False)
    assert "name=value" in symadj(api_server, "list", "--label", "team").stderr


Field = tuple[dict[str, Any], str, dict[str, Any]]


def fields(document: dict[str, Any], part: Any, met: set[str]) -> Iterator[Field]:
    """Yield the fields of all models that a part of the document refers to: the model, a name, and what it says of it.

    The names of the models are added to ``met``; those that are there are left out.
    """
    if isinstance(part, list):
        for item in part:
            yield from fields(document, item, met)
    if not isinstance(part, dict):
        return
    if (name := part.get("$ref")) and name not in met:
        met.add(name)
        model = document["components"]["schemas"][name.rpartition("/")[2]]
        for field, value in model.get("properties", {}).items():
            yield model, field, value
        yield from fields(document, model, met)
    for item in part.values():
        yield from fields(document, item, met)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def fields_of_answers(document: dict[str, Any]) -> list[Field]:
    met: set[str] = set()
    return [item for _, operation in operations(document) for item in fields(document, operation["responses"], met)]


def undescribed(found: Iterable[Field]) -> list[str]:
    # One that can have a single value, as the kind of a section, is described by it.
    return [
        f"{model['title']}.{name}"
        for model, name, value in found
        if "description" not in value and "const" not in value
    ]


def test_every_parameter_and_every_field_of_a_body_says_what_it_is(document: dict[str, Any]) -> None:
    met: set[str] = set()
    for name, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{name}: {parameter['name']}"
        if "/ingest/" not in name:  # runs send these
            assert undescribed(fields(document, operation.get("requestBody", {}), met)) == []


def test_every_field_of_an_answer_says_what_it_is(document: dict[str, Any]) -> None:
    found = fields_of_answers(document)
    assert {"JobRead", "MemoryPointRead", "Problem"} <= {model["title"] for model, _, _ in found}
    assert undescribed(found) == []


def test_a_field_of_an_answer_that_may_be_null_says_what_null_means(document: dict[str, Any]) -> None:
    """By itself, or with all others of its model."""
    may_be_null = [item for item in fields_of_answers(document) if {"type": "null"} in item[2].get("anyOf", ())]
    assert may_be_null
    silent = [
        f"{model['title']}.{name}"
        for model, name, value in may_be_null
        if "null" not in value.get("description", "") + model["description"]
    ]
    assert silent == []
