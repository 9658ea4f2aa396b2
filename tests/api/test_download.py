"""Downloads: parts of files, connections that break, sums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from symadj.api.client import Client, DownloadError
from tests.api.conftest import Run
from tests.api.test_head import leave_a_file
from tests.api.test_jobs import assert_problem
from tests.command import symadj
from tests.conftest import ApiServer

CONTENT = os.urandom(3 * 2**20)


@pytest.fixture
def breaking(api_server: ApiServer) -> Iterator[tuple[str, list[str | None]]]:
    """A server before the API that breaks the connection after the first MiB of each answer; the ranges asked of it."""
    ranges: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name: self.headers[name] for name in ("Range", "If-Range") if name in self.headers}
            answer = httpx.get(f"{api_server.url}{self.path}", headers=headers)
            if answer.headers["content-type"] == "text/plain; charset=utf-8":
                ranges.append(self.headers["Range"])
            self.send_response(answer.status_code)
            for name in ("content-length", "etag", "content-type"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content[: 2**20])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", ranges
        server.shutdown()


def test_a_download_that_breaks_off_goes_on_from_where_it_was(
    run: Run, breaking: tuple[str, list[str | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symadj.api.client.attempts.PAUSE_SECONDS", 0.0)
    leave_a_file(run, CONTENT)
    url, ranges = breaking
    came: list[int] = []
    with Client(url) as client:
        client.download(run.job_id, "a", tmp_path / "a", advance=came.append)
        assert (tmp_path / "a").read_bytes() == CONTENT
        assert os.listdir(tmp_path) == ["a"]
        assert sum(came) == len(CONTENT)
        assert ranges == [None, f"bytes={2**20}-", f"bytes={2 * 2**20}-"]
        client.download(run.job_id, "a", tmp_path / "a")
    assert len(ranges) == 3, "what is there is not fetched again"


def test_the_command_goes_on_with_what_an_earlier_one_left(run: Run, tmp_path: Path) -> None:
    leave_a_file(run, CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / f"a.{digest[:16]}.part").write_bytes(CONTENT[:-1])
    done = symadj(run.server, "download", run.job_id, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "a")]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_what_is_not_what_the_run_stored_gets_no_name(run: Run, tmp_path: Path) -> None:
    leave_a_file(run, CONTENT)
    (stored,) = (run.server.data / "jobs" / run.job_id).glob("artifacts/1/a")
    stored.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    with Client(run.server.url) as client, pytest.raises(DownloadError, match="SHA-256"):
        client.download(run.job_id, "a", tmp_path / "a")
    assert os.listdir(tmp_path) == []


def assert_parts_are_served(api: httpx.Client, url: str, content: bytes) -> None:
    """Ask for parts of a file in all ways that there are."""
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    size = len(content)
    for asked, first, end in (("2-4", 2, 5), ("-3", size - 3, size), ("5-", 5, size), (f"5-{size * 2}", 5, size)):
        for more in ({}, {"If-Range": etag}):
            answer = api.get(url, headers={"Range": f"bytes={asked}", **more})
            assert (answer.status_code, answer.content) == (206, content[first:end])
            assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
            assert answer.headers["etag"] == etag
    for headers in (
        {"Range": "bytes=2-4", "If-Range": '"another"'},
        {"Range": "bytes=0-1,3-4"},
        {"Range": "bytes=4-2"},
        {"Range": "bytes=-"},
        {"Range": "lines=1-2"},
    ):
        answer = api.get(url, headers=headers)
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["accept-ranges"] == "bytes"
    for asked in (f"{size}-", "-0", f"{size}-{size + 1}"):
        assert str(size) in assert_problem(api.get(url, headers={"Range": f"bytes={asked}"}), 416)["detail"]


def test_parts_of_a_file_are_served(run: Run) -> None:
    leave_a_file(run, b"0123456789")
    assert_parts_are_served(run.api, f"/api/v1/jobs/{run.job_id}/artifacts/a", b"0123456789")
