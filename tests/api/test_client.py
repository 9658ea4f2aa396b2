"""The client and the watch when connections break: real servers that die, and one that loses an answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest

from symadj.api.client import ApiProblemError, ApiUnreachableError, Client
from symadj.api.client import attempts as module
from tests.command import SYMADJ
from tests.conftest import TOY, ApiServer, free_port, running_api


@pytest.fixture
def forgetful(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A proxy before the API that passes the first submission on and then loses the answer."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    lost: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name: self.headers[name] for name in ("Idempotency-Key", "Content-Type")}
            answer = httpx.post(f"{api_server.url}{self.path}", content=body, headers=headers)
            if not lost:
                lost.append(answer.json()["id"])
                self.close_connection = True
                return
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_lost_answer_to_a_submission_makes_no_second_job(forgetful: str, api: httpx.Client) -> None:
    name = f"once {uuid4().hex}"
    with Client(forgetful) as client:
        job = client.submit(TOY | {"name": name})
    listed = api.get("/api/v1/jobs", params={"name": name}).json()["items"]
    assert [item["id"] for item in listed] == [job.id]


def test_a_submission_to_nobody_is_refused_at_once() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(ApiUnreachableError) as caught:
        client.submit(TOY)
    assert not caught.value.sent


def test_a_watch_outlives_the_api_and_tells_pauses(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running_api(tmp_path, port), Client(url) as client:
        job_id = client.submit(TOY).id
        watch = subprocess.Popen(
            [SYMADJ, "watch", job_id, "--url", url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert watch.stdout is not None
        assert "queued" in watch.stdout.readline()
    told = watch.stdout.readline()
    assert "the API does not answer" in told
    with running_api(tmp_path, port), Client(url) as client:
        assert "answers again" in watch.stdout.readline()
        client.pause(job_id)
        assert "paused" in watch.stdout.readline()
        assert f"symadj resume {job_id}" in watch.stdout.readline()
        client.resume(job_id)
        assert "queued: Resumed" in watch.stdout.readline()
        client.cancel(job_id)
        rest = watch.communicate(timeout=30)[0]
    assert "cancelled" in rest
    assert "Traceback" not in rest
    assert watch.returncode == 3


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str | None], list[float]]]:
    """A server that refuses as many requests as it is told to, each with its Retry-After, before it answers one.

    Yield its URL, these, and the seconds for which the client has waited: it only says so.
    """
    refusals: list[str | None] = []
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waited.append))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = bool(refusals)
            self.send_response(503 if refused else 200)
            if refused and (told := refusals.pop(0)) is not None:
                self.send_header("Retry-After", told)
            self.end_headers()
            self.wfile.write(b'{"title": "Busy", "detail": "come again"}' if refused else b'{"items": []}')

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}", refusals, waited
        server.shutdown()


def test_a_busy_server_is_asked_again_after_the_seconds_that_it_says(
    busy: tuple[str, list[str | None], list[float]],
) -> None:
    url, refusals, waited = busy
    refusals += ["7", "2", "11"]
    with Client(url) as client:
        assert client.metric_list("job-1").items == []
    assert waited == [7.0, 2.0, 11.0]


@pytest.mark.parametrize(("told", "retry_after"), [("61", 61.0), (None, None)])
def test_who_would_wait_for_over_a_minute_or_is_not_told_how_long_gets_the_refusal(
    busy: tuple[str, list[str | None], list[float]], told: str | None, retry_after: float | None
) -> None:
    url, refusals, waited = busy
    refusals += [told] * 2
    with Client(url) as client, pytest.raises(ApiProblemError) as caught:
        client.metric_list("job-1")
    assert (caught.value.status, caught.value.retry_after) == (503, retry_after)
    assert (waited, len(refusals)) == ([], 1)
