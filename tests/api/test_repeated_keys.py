"""A key that stands twice, in YAML, in JSON and in settings of the command line."""

from __future__ import annotations

import json
from uuid import uuid4

import httpx
import pytest

from tests.api.routes import Endpoint, endpoints
from tests.api.test_jobs import assert_problem
from tests.command import symadj
from tests.conftest import TOY, ApiServer

# Batches of runs are made by runs themselves, many a second, and are read once.
TAKE_JSON = [endpoint for endpoint in endpoints() if endpoint.has_body and "ingest" not in endpoint.path]


@pytest.mark.parametrize("endpoint", TAKE_JSON, ids=str)
@pytest.mark.parametrize(
    ("body", "pointer", "times"),
    [
        ('{"name": "a", "name": "a"}', "/name", 2),
        ('{"x": [0, {"a/b": {"c": 1, "c": 2, "c": 3}}]}', "/x/1/a~1b/c", 3),
        ('{"a": 1, "\\u0061": 2}', "/a", 2),
    ],
)
def test_a_key_that_stands_twice_in_a_body_is_refused_with_its_place(
    api: httpx.Client, endpoint: Endpoint, body: str, pointer: str, times: int
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = api.request(endpoint.method, endpoint.at("none"), content=body, headers=headers)
    (error,) = assert_problem(answer, 422)["errors"]
    assert (error["location"], error["pointer"]) == ("body", pointer)
    assert f"{times} times" in error["detail"]


def test_a_spec_with_a_section_twice_makes_no_job(api: httpx.Client) -> None:
    name = f"twice {uuid4().hex}"
    body = json.dumps(TOY | {"name": name, "optimizer": {"kind": "adam"}})[:-1] + ', "optimizer": {"kind": "sgd"}}'
    answer = api.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert [error["pointer"] for error in assert_problem(answer, 422)["errors"]] == ["/optimizer"]
    assert api.get("/api/v1/jobs", params={"name": name}).json()["items"] == []


YAML = "data: {kind: toy, name: moons}\n"


def not_submitted(server: ApiServer, spec: str, *words: str) -> str:
    """Submit what can't be meant; return what is told."""
    result = symadj(server, "submit", "-", *words, stdin=spec)
    assert result.returncode == 2, (result.stdout, result.stderr)
    return " ".join(word for word in result.stderr.split() if word != "│")


@pytest.mark.parametrize(
    ("more", "key", "first", "second"),
    [
        ("optimizer: {kind: adam}\nname: x\noptimizer: {kind: sgd}\n", "optimizer", "line 2 ", "line 4 "),
        ("optimizer:\n  kind: adam\n  schedule:\n    kind: cosine\n    kind: constant\n", "kind", "line 5 ", "line 6 "),
        ("regularisers: [{kind: kinetic, kind: jacobian}]\n", "kind", "line 2 (column 17)", "line 2 (column 32)"),
        ("labels: {'1': a, 0x1: b}\n", "1", "line 2 (column 10)", "line 2 (column 18)"),
        ("labels: {<<: {a: x}, <<: {b: y}}\n", "<<", "line 2 (column 10)", "[*a, *b]"),
    ],
)
def test_a_key_that_stands_twice_in_a_file_is_refused_with_both_lines(
    api_server: ApiServer, more: str, key: str, first: str, second: str
) -> None:
    told = not_submitted(api_server, YAML + more)
    assert f"'{key}' stands twice" in told
    assert first in told
    assert second in told


def test_so_it_is_in_a_file_of_json(api_server: ApiServer) -> None:
    told = not_submitted(api_server, '{"optimizer": {},\n "optimizer": {}}')
    assert "'optimizer' stands twice in one mapping, in line 1 (column 2) and line 2 (column 2)" in told


def test_anchors_and_merged_keys_are_read_as_yaml_means_them(api_server: ApiServer, api: httpx.Client) -> None:
    spec = YAML + (
        "labels: {team: &team x, exp: *team}\n"
        "pretraining: {steps: 10, schedule: &warm {kind: cosine, warmup_steps: 5}}\n"
        "optimizer: {kind: adam, schedule: {<<: *warm, warmup_steps: 7}}\n"
    )
    submitted = symadj(api_server, "submit", "-", stdin=spec)
    assert submitted.returncode == 0, submitted.stderr
    read = api.get(f"/api/v1/jobs/{submitted.stdout.strip()}").json()["spec"]
    assert read["labels"] == {"team": "x", "exp": "x"}
    assert [read[part]["schedule"]["kind"] for part in ("pretraining", "optimizer")] == ["cosine", "cosine"]
    assert [read[part]["schedule"]["warmup_steps"] for part in ("pretraining", "optimizer")] == [5, 7]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("stop.max_steps=1", "stop.max_steps=2"), "stop.max_steps is set twice"),
        (("optimizer={kind: adam, kind: sgd}",), "'kind' stands twice"),
        (('optimizer={"kind": "adam", "kind": "sgd"}',), "'kind' stands twice"),
        (("stop.max_steps=1", "stop={kind: steps}"), "'stop={kind: steps}' would undo 'stop.max_steps=1'"),
        (("stop={max_steps: 1}", "stop.max_steps=2"), "'stop.max_steps=2' would undo 'stop={max_steps: 1}'"),
        (("optimizer.learning_rate=1", "optimizer.kind=sgd"), "'optimizer.kind=sgd' would undo"),
    ],
)
def test_a_setting_that_would_be_lost_is_refused(api_server: ApiServer, settings: tuple[str, ...], told: str) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    assert told in not_submitted(api_server, YAML, *words)


@pytest.mark.parametrize(
    "settings",
    [("optimizer.kind=sgd", "optimizer.learning_rate=1"), ("optimizer={kind: sgd}", "optimizer.learning_rate=1")],
)
def test_a_section_is_set_and_then_a_field_of_it(
    api_server: ApiServer, api: httpx.Client, settings: tuple[str, ...]
) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    submitted = symadj(api_server, "submit", "-", *words, stdin=YAML)
    assert submitted.returncode == 0, submitted.stderr
    optimizer = api.get(f"/api/v1/jobs/{submitted.stdout.strip()}").json()["spec"]["optimizer"]
    assert (optimizer["kind"], optimizer["learning_rate"]) == ("sgd", 1.0)
