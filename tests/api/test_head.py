"""HEAD, on every path that has GET."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import httpx
import psutil
import pytest

from symadj.service.contract.spec.comparison import COMPARISON
from tests.api.conftest import NOW, Run, checkpoint, leave_a_webhook, leave_an_upload
from tests.api.routes import Endpoint, endpoints
from tests.conftest import TOY


def leave_a_file(run: Run, content: bytes, name: str = "a") -> None:
    """Store an artifact, and say so."""
    folder = run.server.data / "jobs" / run.job_id / "artifacts" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    record = {"kind": "artifact", "time": NOW, "name": name, "media_type": "text/plain", "bytes": len(content)}
    assert run.send(record | {"sha256": digest}).status_code == 200


def comparable(answer: httpx.Response) -> dict[str, str]:
    """Return the headers, but those that differ between two equal requests."""
    changing = {"date", "x-request-id"}
    if answer.request.url.path in {
        "/metrics",
        "/api/v1/usage",
    }:  # they count these very requests, and bytes that change
        changing |= {"content-length", "etag"}
    return {name: value for name, value in answer.headers.items() if name not in changing}


@pytest.mark.parametrize("endpoint", [item for item in endpoints() if item.method == "GET"], ids=str)
def test_head_answers_as_get_does_without_a_body(new_run: Callable[..., Run], endpoint: Endpoint) -> None:
    run = new_run(labels={COMPARISON: "none"})
    run.send({"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": 1.0}}, checkpoint(1))
    leave_a_file(run, b"content")
    leave_a_webhook(run)
    leave_an_upload(run)
    spec = {"base": TOY, "parameters": {"seed": {"choices": [1]}}, "trials": 1}
    sweep = run.api.post("/api/v1/sweeps", json=spec, headers={"Idempotency-Key": "head"}).json()["id"]
    address = endpoint.at(run.job_id, sweep)
    # The page is for who asks for one.
    headers = {"Accept": "text/html, */*"} if endpoint.path == "/" else {}
    got, asked = run.api.get(address, headers=headers), run.api.head(address, headers=headers)
    assert asked.status_code == got.status_code
    assert asked.status_code == 200
    assert comparable(asked) == comparable(got)
    assert int(asked.headers["content-length"]) > 0
    assert asked.content == b""


def test_head_does_not_read_the_file(run: Run) -> None:
    leave_a_file(run, os.urandom(2**20) * 4)
    process = psutil.Process(run.server.process.pid)
    before = process.io_counters().read_chars
    assert run.api.head(f"/api/v1/jobs/{run.job_id}/artifacts/a").headers["content-length"] == str(4 * 2**20)
    assert process.io_counters().read_chars - before < 2**20


def test_head_of_what_is_not_there_or_has_no_get_is_refused_as_its_get(api: httpx.Client) -> None:
    assert [api.head(path).status_code for path in ("/api/v1/jobs/none", "/api/v1/nothing")] == [404, 404]
    assert api.head("/api/v1/ingest/batches").status_code == 405


def test_requests_for_the_head_are_counted_as_such_by_their_route(run: Run) -> None:
    run.api.head(f"/api/v1/jobs/{run.job_id}/events")
    lines = run.api.get("/metrics").text.splitlines()
    assert any('method="HEAD"' in line and "events" in line and 'status="200"' in line for line in lines)
