"""Files that users send to be trained on, over HTTP."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import ByteSize

from symadj.api.app import create_app
from symadj.api.client import Client
from symadj.api.receiving import MOST_AT_ONCE
from symadj.service import keys
from symadj.service.contract.spec.data import FORMATS
from symadj.service.contract.storage import Folder
from symadj.service.roles import Role
from symadj.service.settings import Settings
from tests.api.test_jobs import assert_problem
from tests.command import symadj
from tests.conftest import TOY, ApiServer

SECRET = "a secret of the server's for tests"
V1 = "/api/v1"
UPLOADS = f"{V1}/uploads"
ROWS = b"fsc,ssc\n1,2\n3,4\n"
BYTES = {"Content-Type": "application/octet-stream"}

Headers = dict[str, str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def client(data: Path) -> Iterator[TestClient]:
    """An API that asks for keys, in this process."""
    with TestClient(create_app(Settings(data=data, auth="keys", key_secret=SECRET))) as client:
        yield client


def key(client: TestClient, name: str, role: Role) -> Headers:
    with client.app.state.database.session() as session:  # type: ignore[attr-defined]
        _, made = keys.create(session, SECRET.encode(), name=name, role=role)
    return {"Authorization": f"Bearer {made}"}


@pytest.fixture(scope="module")
def ada(client: TestClient) -> Headers:
    return key(client, "ada", Role.SUBMITTER)


@pytest.fixture(scope="module")
def bob(client: TestClient) -> Headers:
    return key(client, "bob", Role.SUBMITTER)


def upload(client: TestClient, who: Headers, content: bytes = ROWS, name: str = "cells.csv") -> dict[str, Any]:
    answer = client.post(UPLOADS, params={"name": name}, content=content, headers=who | BYTES)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{UPLOADS}/{made['id']}"
    return made


def spec(path: str, **more: Any) -> dict[str, Any]:
    return {"data": {"kind": "file", "path": path} | more}


def stored(data: Path) -> set[str]:
    """Return the files of uploads, and the marks of what comes in."""
    place = data / "jobs"
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def test_a_file_is_stored_once_and_named_by_its_path_until_nothing_needs_it(
    client: TestClient, ada: Headers, data: Path
) -> None:
    made = upload(client, ada, b"a,b\n1,2\n", "Größe der Zellen (1).csv")
    assert (made["owner"], made["format"], made["bytes"]) == ("ada", "csv", 8)
    assert made["sha256"] == hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    assert made["path"] == f"{made['id']}/Größe der Zellen (1).csv"
    assert (data / "jobs" / made["path"]).read_bytes() == b"a,b\n1,2\n"
    before = stored(data)
    again = client.post(UPLOADS, params={"name": "other.csv"}, content=b"a,b\n1,2\n", headers=ada | BYTES)
    assert (again.status_code, again.json()) == (200, made)
    assert stored(data) == before
    place = f"{UPLOADS}/{made['id']}"
    assert client.get(place, headers=ada).json() == made
    job = client.post(f"{V1}/jobs", json=spec(made["path"]), headers=ada).json()
    assert job["findings"] == []
    problem = assert_problem(client.delete(place, headers=ada), 409)
    assert problem["named_by"] == [job["id"]]
    assert job["id"] in problem["detail"]
    client.post(f"{V1}/jobs/{job['id']}/cancel", headers=ada)
    assert client.delete(place, headers=ada).status_code == 204
    assert_problem(client.get(place, headers=ada), 404)
    assert not [name for name in stored(data) if name.startswith(made["id"])]
    for again in (
        client.post(f"{V1}/jobs/{job['id']}/retry", headers=ada),
        client.post(f"{V1}/jobs/{job['id']}/clone", json={}, headers=ada),
    ):
        problem = assert_problem(again, 422)
        assert problem["errors"][0]["pointer"] == "/data/path"
        assert "is not an upload of ada" in problem["detail"]


def test_an_owner_lists_their_own_uploads_newest_first(client: TestClient, ada: Headers, bob: Headers) -> None:
    made = [upload(client, bob, b"x\n%d\n" % number)["id"] for number in range(3)]
    first = client.get(UPLOADS, params={"limit": 2}, headers=bob).json()
    rest = client.get(UPLOADS, params={"after": first["next_after"]}, headers=bob).json()
    assert [item["id"] for item in first["items"] + rest["items"]][:3] == made[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert not {*made} & {item["id"] for item in client.get(UPLOADS, headers=ada).json()["items"]}


def test_nobody_names_reads_or_deletes_what_another_has_sent(client: TestClient, ada: Headers, bob: Headers) -> None:
    made = upload(client, ada, b"of,ada\n1,2\n")
    same = upload(client, bob, b"of,ada\n1,2\n")
    assert same["id"] != made["id"], "whether another has sent this is nobody's business"
    place, theirs = f"{UPLOADS}/{made['id']}", spec(made["path"])
    for answer in (client.get(place, headers=bob), client.delete(place, headers=bob)):
        assert assert_problem(answer, 404)["detail"] == f"there is no upload {made['id']!r}"
    sweep = {"base": theirs, "parameters": {"seed": {"choices": [1]}}, "trials": 1}
    for address, body in (
        ("jobs", theirs),
        ("jobs", spec("cells.csv", test_path=made["path"])),
        ("jobs", {"data": {"kind": "parquet_stream", "path": made["id"]}}),
        ("jobs?dry_run=true", theirs),
        ("comparisons", {"spec": theirs}),
        ("sweeps", sweep),
        ("plans", theirs),
    ):
        problem = assert_problem(client.post(f"{V1}/{address}", json=body, headers=bob), 422)
        assert "is not an upload of bob" in problem["detail"], address
    assert client.post(f"{V1}/jobs", json=theirs, headers=ada).status_code == 201
    other_name = spec(f"{made['id']}/other.csv")
    assert_problem(client.post(f"{V1}/jobs", json=other_name, headers=ada), 422)


def test_a_viewer_sees_all_uploads_and_an_admin_deletes_them(client: TestClient, ada: Headers) -> None:
    viewer, admin = key(client, "eve", Role.VIEWER), key(client, "root", Role.ADMIN)
    made = upload(client, ada, b"of,all\n1,2\n")
    place = f"{UPLOADS}/{made['id']}"
    assert client.get(place, headers=viewer).json() == made
    assert_problem(client.delete(place, headers=viewer), 403)
    sent = client.post(UPLOADS, params={"name": "a.csv"}, content=ROWS, headers=viewer | BYTES)
    assert "only reads" in assert_problem(sent, 403)["detail"]
    assert client.delete(place, headers=admin).status_code == 204
    entries = client.get(f"{V1}/audit", params={"id": made["id"]}, headers=admin).json()["items"]
    told = [(entry["who"], entry["method"], entry["status"]) for entry in entries]
    assert told == [("root", "DELETE", 204), ("eve", "DELETE", 403), ("ada", "POST", 201)]


def test_what_a_sweep_that_runs_names_anywhere_stays(client: TestClient, ada: Headers) -> None:
    made = upload(client, ada, b"of,sweep\n1,2\n")
    parameters = {"data.path": {"choices": ["cells.csv", made["path"]]}}
    sweep = {"base": spec("cells.csv"), "parameters": parameters, "trials": 2}
    begun = client.post(f"{V1}/sweeps", json=sweep, headers=ada)
    assert begun.status_code == 201, begun.text
    problem = assert_problem(client.delete(f"{UPLOADS}/{made['id']}", headers=ada), 409)
    assert problem["named_by"] == [begun.json()["id"]]
    client.post(f"{V1}/sweeps/{begun.json()['id']}/cancel", headers=ada)
    assert client.delete(f"{UPLOADS}/{made['id']}", headers=ada).status_code == 204


@pytest.mark.parametrize("ending", [ending for format in FORMATS.values() for ending in format.endings])
def test_every_format_of_files_that_a_spec_names_can_be_sent(client: TestClient, ada: Headers, ending: str) -> None:
    made = upload(client, ada, ending.encode(), f"cells{ending.upper()}")
    answer = client.post(f"{V1}/jobs", json=spec(made["path"]), headers=ada)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["data"]["format"] == made["format"]


@pytest.mark.parametrize(
    ("name", "headers", "content", "status", "told"),
    [
        ("cells.xlsx", BYTES, ROWS, 422, "(known: .npy, .npz,"),
        ("../cells.csv", BYTES, ROWS, 422, "name"),
        ("a/cells.csv", BYTES, ROWS, 422, "name"),
        (".cells.csv", BYTES, ROWS, 422, "name"),
        ("\u7d30" * 100 + ".csv", BYTES, ROWS, 422, "304 bytes"),
        ("cells.csv", BYTES, b"", 422, "the body is empty"),
        ("cells.csv", {"Content-Type": "text/csv"}, ROWS, 415, "application/octet-stream"),
    ],
)
def test_what_is_refused_leaves_nothing(
    client: TestClient, ada: Headers, data: Path, name: str, headers: Headers, content: bytes, status: int, told: str
) -> None:
    before = stored(data)
    answer = client.post(UPLOADS, params={"name": name}, content=content, headers=ada | headers)
    assert told in assert_problem(answer, status)["detail"]
    assert stored(data) == before


def test_a_file_has_a_bound_and_an_owner_a_share_of_the_disk(tmp_path: Path) -> None:
    limits = {"upload_bytes": ByteSize(1000), "owner_disk_bytes": ByteSize(1500)}
    with TestClient(create_app(Settings(data=tmp_path, allowed_hosts="testserver", **limits))) as client:
        for content in (b"x" * 1001, iter([b"x" * 600] * 2)):  # of which the length is declared, and is not
            answer = client.post(UPLOADS, params={"name": "a.npy"}, content=content, headers=BYTES)
            assert assert_problem(answer, 413)["max_bytes"] == 1000
        made = upload(client, {}, b"x" * 1000, "a.npy")
        before = stored(tmp_path)
        answer = client.post(UPLOADS, params={"name": "b.npy"}, content=b"y" * 501, headers=BYTES)
        assert assert_problem(answer, 429)["held_bytes"] == 1000
        assert stored(tmp_path) == before
        upload(client, {}, b"y" * 500, "b.npy")
        assert "jobs and uploads" in assert_problem(client.post(f"{V1}/jobs", json=TOY), 429)["detail"]
        assert client.get(f"{V1}/usage").json()["uploads_bytes"] == 1500
        assert client.delete(f"{UPLOADS}/{made['id']}").status_code == 204
        assert client.post(f"{V1}/jobs", json=TOY).status_code == 201


def test_a_full_disk_is_said_to_be_full_and_keeps_nothing(
    client: TestClient, ada: Headers, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, writing = stored(data), Folder.writing

    @contextmanager
    def on_a_full_disk(self: Folder, path: str) -> Iterator[IO[bytes]]:
        with writing(self, path) as file:
            yield file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(Folder, "writing", on_a_full_disk)
    answer = client.post(UPLOADS, params={"name": "a.csv"}, content=b"too,much\n1,2\n", headers=ada | BYTES)
    assert "no room" in assert_problem(answer, 507)["detail"]
    assert stored(data) == before


def test_more_files_at_once_than_may_come_in_are_refused_for_now_and_clients_that_leave_leave_nothing(
    api_server: ApiServer, api: httpx.Client
) -> None:
    marks = api_server.data / "jobs" / ".uploads"
    deadline = time.monotonic() + 30

    def wait_for(files: int) -> None:
        while sum(1 for _ in marks.glob("upl-*")) != files and time.monotonic() < deadline:
            api.get("/healthz")
        assert sum(1 for _ in marks.glob("upl-*")) == files

    host, port = api_server.url.removeprefix("http://").split(":")
    half = f"POST {UPLOADS}?name=a.npy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n".encode()
    half += b"Content-Type: application/octet-stream\r\n\r\nx"
    with ExitStack() as stack:
        for _ in range(MOST_AT_ONCE):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            client.sendall(half)
        wait_for(MOST_AT_ONCE)
        refused = api.post(UPLOADS, params={"name": "a.npy"}, content=ROWS, headers=BYTES)
        assert f"{MOST_AT_ONCE} files come in now" in assert_problem(refused, 503)["detail"]
        assert refused.headers["retry-after"] == "2"
    wait_for(0)
    assert not [*(api_server.data / "jobs").glob("upl-*/.*")]


def test_the_client_and_the_command_line_send_a_file(api_server: ApiServer, tmp_path: Path) -> None:
    file = tmp_path / "cells.csv"
    file.write_bytes(ROWS)
    sent = symadj(api_server, "upload", "--no-look", str(file))
    assert sent.returncode == 0, sent.stderr
    path = sent.stdout.strip()
    with Client(api_server.url) as client:
        made = client.upload(file)
        assert made.path == path
        assert made in client.uploads().items
        assert made.id in symadj(api_server, "uploads").stdout
        named = tmp_path / "spec.yaml"
        named.write_text("data: {kind: file}\n")
        submitted = symadj(api_server, "submit", str(named), "--upload", f"data.path={file}")
        assert submitted.returncode == 0, submitted.stderr
        job = client.job(submitted.stdout.strip())
        assert job.spec["data"]["path"] == path
        job.cancel()
        refused = symadj(api_server, "submit", str(named), "--upload", "data.path=absent.csv")
        assert refused.returncode == 2
        assert "with a file here" in refused.stderr
        deleted = symadj(api_server, "uploads", "delete", made.id)
        assert deleted.returncode == 0, deleted.stderr
        assert made not in client.uploads().items
