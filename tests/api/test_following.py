"""The commands that follow a job to its end: `metrics -f`, `logs -f`, `events -f`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from symadj.api.client import attempts
from tests.api.conftest import NOW, Run
from tests.api.test_both_clients import serving
from tests.command import run_symadj, symadj
from tests.conftest import ApiServer

FOLLOWING = [("metrics", "loss"), ("logs",), ("events",)]


@contextmanager
def before(server: ApiServer, on_wait: Callable[[], int | None]) -> Iterator[dict[str, str]]:
    """Run a proxy before the API, until the block ends; yield the variables by which the command line finds it.

    A request that waits is answered with the status that ``on_wait`` returns; None: as the API answers it.
    """

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = on_wait() if "wait=" in self.path else None
            if status is not None:
                with suppress(ConnectionError):  # whoever was interrupted has left
                    self.send_error(status)
                return
            answer = httpx.get(f"{server.url}{self.path}")
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serving(Proxy) as url:
        yield {"SYMADJ_URL": url}


@pytest.mark.parametrize("words", FOLLOWING, ids=" ".join)
def test_what_follows_a_job_waits_for_an_api_that_is_away(
    words: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(attempts, "RESUME_SECONDS", 0.0)  # after which a stream by itself is given up
    run.send(
        {"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": 2.0}},
        {"kind": "log", "time": NOW, "stream": "stdout", "lines": ["here"], "end": 5},
    )
    run.end("failed", reason="diverged", message="the loss is not finite")
    command, *rest = words
    statuses: list[int | None] = [503, 502]
    with before(run.server, lambda: statuses.pop(0) if statuses else None) as environment:
        followed = run_symadj(command, run.job_id, *rest, "-f", environment=environment)
    assert followed.returncode == 0, "whatever became of the job"
    assert followed.stdout == symadj(run.server, command, run.job_id, *rest).stdout != ""
    away, back = followed.stderr.splitlines()
    assert away.startswith("the API does not answer (status 503)")
    assert back == "the API answers again"


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], int]]:
    """What presses Ctrl-C while the command waits that the main thread runs, and then refuses what it waits for."""

    def press() -> int:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return 500

    # Whoever runs the tests in the background has it ignored.
    known = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield press
    signal.signal(signal.SIGINT, known)


@pytest.mark.parametrize("words", FOLLOWING, ids=" ".join)
def test_who_follows_a_job_that_does_not_run_is_told_so_and_leaves_by_ctrl_c(
    words: tuple[str, ...], api_server: ApiServer, submit: Callable[..., dict[str, Any]], ctrl_c: Callable[[], int]
) -> None:
    job_id = submit()["id"]
    command, *rest = words
    with before(api_server, ctrl_c) as environment:
        queued = run_symadj(command, job_id, *rest, "-f", environment=environment)
        httpx.post(f"{api_server.url}/api/v1/jobs/{job_id}/pause")
        paused = run_symadj(command, job_id, *rest, "-f", environment=environment)
    assert f"{job_id} is queued." in queued.stderr
    assert f"{job_id} is paused until `symadj resume {job_id}`" in paused.stderr
    assert (queued.returncode, paused.returncode) == (0, 0)


def test_a_metric_that_may_yet_come_is_waited_for_and_told_from_those_that_are_there(
    run: Run, ctrl_c: Callable[[], int]
) -> None:
    run.send({"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": 2.0}})
    with before(run.server, ctrl_c) as environment:
        followed = run_symadj("metrics", run.job_id, "los", "-f", environment=environment)
    assert followed.stderr == "the job has no 'los'; it has: loss; it is waited for\n"
    run.end("cancelled")
    refused = symadj(run.server, "metrics", run.job_id, "los", "-f")
    assert refused.returncode == 2
    assert "it has: loss" in refused.stderr
