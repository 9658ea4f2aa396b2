"""Bodies of requests: their size, who may send one, and clients that take their time."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from symadj.api.problems import MOST_ERRORS
from symadj.service import keys
from symadj.service.contract.records import MAX_METRICS
from symadj.service.roles import Role
from symadj.service.store import Database, jobs
from tests.api.conftest import NOW, Run
from tests.api.routes import Endpoint, endpoints
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY, ApiServer, running_api

SECRET = "a secret of the server's for tests"
JSON = {"Content-Type": "application/json"}
TAKE_BODIES = [endpoint for endpoint in endpoints() if endpoint.has_body]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API that asks for keys."""
    data = tmp_path_factory.mktemp("keys")
    with running_api(data, SYMADJ_AUTH="keys", SYMADJ_KEY_SECRET=SECRET) as server:
        yield server


def key(server: ApiServer, role: Role) -> dict[str, str]:
    database = Database(f"sqlite:///{server.data / 'symadj.sqlite'}")
    with contextlib.closing(database), database.session() as session:
        _, made = keys.create(session, SECRET.encode(), name="ada", role=role)
    return {"Authorization": f"Bearer {made}"}


def pieces(total: int) -> Iterator[bytes]:
    """Make a body of which the length is not declared."""
    for _ in range(total // 2**16):
        yield b" " * 2**16


@pytest.mark.parametrize("endpoint", TAKE_BODIES, ids=str)
def test_without_a_key_no_body_is_read(guarded: ApiServer, endpoint: Endpoint) -> None:
    process = psutil.Process(guarded.process.pid)
    httpx.request(endpoint.method, guarded.url + endpoint.path, content=b"{}", headers=JSON)
    before = process.memory_info().rss
    body = b"[" + b'{"a":1},' * (39 * 2**17) + b"{}]"
    answer = httpx.request(endpoint.method, guarded.url + endpoint.path, content=body, headers=JSON, timeout=60)
    assert_problem(answer, 401)
    high_water = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    assert high_water - before < 10 * 2**20


def test_a_viewer_is_refused_before_a_word_is_said_of_the_body(guarded: ApiServer) -> None:
    headers = JSON | key(guarded, Role.VIEWER)
    body = b'{"data": ' + b" " * 2**21
    assert_problem(httpx.post(f"{guarded.url}/api/v1/jobs", content=body, headers=headers), 403)


@pytest.mark.parametrize("endpoint", TAKE_BODIES, ids=str)
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused_with_what_is_taken(run: Run, endpoint: Endpoint, declared: bool) -> None:
    size = 40 * 2**20
    headers = JSON | ({"Authorization": f"Bearer {run.token}"} if "ingest" in endpoint.path else {})
    content = b" " * size if declared else pieces(size)
    answer = run.api.request(endpoint.method, endpoint.path, content=content, headers=headers)
    problem = assert_problem(answer, 413)
    assert str(problem["max_bytes"]) in problem["detail"]
    assert problem["max_bytes"] < size
    documented = run.api.get("/openapi.json").json()["paths"][endpoint.path][endpoint.method.lower()]["responses"]
    assert "413" in documented


def test_of_many_errors_some_are_told_and_all_are_counted(api: httpx.Client) -> None:
    wrong = {f"field_{number}": 1 for number in range(2000)}
    problem = assert_problem(api.post("/api/v1/jobs", json=TOY | wrong), 422)
    assert len(problem["errors"]) == MOST_ERRORS
    assert problem["error_count"] == 2000
    assert f"and {2000 - 3} more" in problem["detail"]
    assert assert_problem(api.post("/api/v1/jobs", json={}), 422)["error_count"] == 1


@pytest.mark.parametrize("count", [500_000, 300_000])
def test_a_spec_of_wrong_values_without_end_is_refused_in_a_few_words(api: httpx.Client, count: int) -> None:
    columns = {"kind": "file", "path": "a.csv", "columns": [1] * count}
    body = json.dumps({"data": columns}, separators=(",", ":"))
    answer = api.post("/api/v1/jobs", content=body, headers=JSON)
    assert_problem(answer, 413 if len(body) > 2**20 else 422)
    assert len(answer.content) < 2000


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API that gives a request one second to arrive."""
    with running_api(tmp_path_factory.mktemp("impatient"), SYMADJ_REQUEST_SECONDS="1") as server:
        yield server


def test_a_client_that_does_not_end_its_request_is_cut_off(impatient: ApiServer) -> None:
    head = b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
    half_a_body = b"Content-Length: 9\r\n\r\n{"
    halves = (
        b"",
        head + b"X-Half: ",
        head + b"Content-Type: application/json\r\n" + half_a_body,
        head + half_a_body,  # 415, before the body is there
    )
    with contextlib.ExitStack() as stack:
        host, port = impatient.url.removeprefix("http://").split(":")
        clients = []
        for half in halves * 25:
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            client.sendall(half)
            clients.append(client)
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                while client.recv(2**16):
                    pass
        assert httpx.get(f"{impatient.url}/healthz").status_code == 200


def test_a_client_may_take_its_time_between_requests_and_for_an_answer(impatient: ApiServer) -> None:
    with httpx.Client(base_url=impatient.url, timeout=30) as client:
        job_id = client.post("/api/v1/jobs", json=TOY).json()["id"]
        answer = client.get(f"/api/v1/jobs/{job_id}/metrics/loss", params={"wait": 2})
        assert answer.json()["points"] == []
        assert client.get("/healthz").status_code == 200


def metrics(*names: str, step: int = 1) -> dict[str, Any]:
    return {"kind": "step", "time": NOW, "step": step, "metrics": dict.fromkeys(names, 1.0)}


def test_a_run_can_not_make_names_of_metrics_without_end(run: Run) -> None:
    for start in range(0, MAX_METRICS, 100):
        assert run.send(metrics(*(f"m{number}" for number in range(start, start + 100)))).status_code == 200
    refused = assert_problem(run.send(metrics("m1", "one_too_many", step=2)), 422)
    assert "'one_too_many'" in refused["detail"]
    assert str(MAX_METRICS) in refused["detail"]
    assert len(run.get("/metrics").json()["items"]) == MAX_METRICS
    assert run.send(metrics("m1", step=3)).status_code == 200


def test_of_a_batch_the_first_wrong_record_is_told(run: Run) -> None:
    wrong = {"kind": "step", "time": NOW, "step": -1, "metrics": {}}
    problem = assert_problem(run.send(*[wrong] * 1000), 422)
    (error,) = problem["errors"]
    assert error["pointer"].startswith("/records/0/")


@pytest.mark.parametrize("step", [2**63, -1, 1.5, "7", True])
def test_an_event_of_a_run_may_say_anything_and_is_stored(run: Run, step: Any) -> None:
    event = {"kind": "event", "time": NOW, "name": "resumed", "message": "on we go", "data": {"step": step}}
    assert run.send(event).status_code == 200
    assert run.get("/attempts").json()["items"][0]["resumed_from_step"] is None


def test_a_connection_serves_on_after_a_body_that_was_not_read(guarded: ApiServer) -> None:
    with httpx.Client(base_url=guarded.url) as client:
        for _ in range(3):
            answer = client.post("/api/v1/jobs", content=b" " * 2**21, headers=JSON)
            assert_problem(answer, 401)
            assert "connection" not in answer.headers


def test_after_a_fault_of_ours_the_client_knows_that_the_connection_is_closed(run: Run) -> None:
    with run.database.session() as session:
        jobs.get(session, run.job_id).spec = {"no": "gradient"}
    for _ in range(3):
        answer = run.get("/memory")
        assert_problem(answer, 500)
        assert answer.headers["connection"] == "close"
    with run.database.session() as session:
        session.delete(jobs.get(session, run.job_id))
