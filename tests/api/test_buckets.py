"""The API over a bucket: downloads, deletions, usage, and what is told where the bucket is wrong or away."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import psutil
import pytest
from anyio import to_thread

from symadj.api.children import ServeError
from symadj.api.serve import serve
from symadj.service.contract import layout
from symadj.service.contract.storage import Storage, StorageUnreachableError, open_storage
from symadj.service.settings import read_settings
from tests.api.conftest import NOW, Run
from tests.api.test_download import assert_parts_are_served
from tests.buckets import BucketServer
from tests.conftest import ApiServer, running_api
from tests.core.test_trained import config, folder


@pytest.fixture(scope="module")
def bucket(bucket_server: BucketServer) -> str:
    return bucket_server.new_bucket()


@pytest.fixture(scope="module")
def api_server(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One of these tests' own, in the place of the shared one."""
    with running_api(tmp_path_factory.mktemp("api"), SYMADJ_STORAGE=bucket) as server:
        yield server


def store(storage: Storage, run: Run, content: bytes) -> str:
    """Leave an artifact, say so, and return its sum."""
    digest = hashlib.sha256(content).hexdigest()
    storage.write(f"{layout.artifact_folder(run.job_id, 1)}/weights.safetensors", content)
    record = {"kind": "artifact", "time": NOW, "name": "weights.safetensors", "media_type": "application/octet-stream"}
    assert run.send(record | {"bytes": len(content), "sha256": digest}).status_code == 200
    return digest


def test_an_artifact_is_streamed_with_its_length_and_etag_and_never_whole_in_memory(
    new_run: Callable[..., Run], bucket: str
) -> None:
    run, size = new_run(), 64 * 2**20
    digest = store(open_storage(bucket), run, os.urandom(2**20) * 64)
    (item,) = run.get("/artifacts").json()["items"]
    assert item["path"] == f"{bucket}/{run.job_id}/artifacts/1/weights.safetensors"
    run.get("/artifacts/weights.safetensors").close()  # it loads what it needs
    process = psutil.Process(run.server.process.pid)
    before, most, seen, received = process.memory_info().rss, 0, hashlib.sha256(), 0
    with run.api.stream("GET", item["url"]) as response:
        assert response.headers["etag"] == f'"{digest}"'
        assert int(response.headers["content-length"]) == size
        for piece in response.iter_bytes(2**20):
            seen.update(piece)
            received += len(piece)
            most = max(most, process.memory_info().rss)
    assert (received, seen.hexdigest()) == (size, digest)
    assert most - before < size / 2
    with run.api.stream("GET", item["url"]) as response:
        in_short = run.api.head(item["url"])
        assert {name for name, _ in in_short.headers.items() - response.headers.items()} <= {"date", "x-request-id"}
    assert in_short.content == b""
    missing = run.get("/artifacts/curve.png")
    assert missing.status_code == 404


def test_parts_of_a_file_are_served(run: Run, bucket: str) -> None:
    store(open_storage(bucket), run, b"0123456789")
    assert_parts_are_served(run.api, f"/api/v1/jobs/{run.job_id}/artifacts/weights.safetensors", b"0123456789")


def test_a_file_that_is_gone_is_told_and_a_deletion_takes_all_files(new_run: Callable[..., Run], bucket: str) -> None:
    run, other, storage = new_run(), new_run(), open_storage(bucket)
    for job in (run, other):
        store(storage, job, b"weights")
    storage.remove(layout.artifact_folder(run.job_id, 1))
    gone = run.get("/artifacts/weights.safetensors")
    assert gone.status_code == 404
    assert bucket in gone.json()["detail"]
    other.end("succeeded", result={})
    usage = run.api.get("/api/v1/usage").json()
    assert {"job_id": other.job_id, "bytes": 7} in usage["jobs"]
    assert usage["free_bytes"] is None
    assert run.api.delete(f"/api/v1/jobs/{other.job_id}").status_code == 204
    assert other.job_id not in storage.children("")
    assert storage.all_set_aside() == []


def test_while_the_bucket_is_away_a_request_for_files_is_to_be_repeated_and_changes_nothing(
    new_run: Callable[..., Run], bucket: str, bucket_server: BucketServer
) -> None:
    run = new_run()
    store(open_storage(bucket), run, b"weights")
    run.end("succeeded", result={})
    with bucket_server.away():
        assert run.get("").status_code == 200
        for answer in (
            run.get("/artifacts/weights.safetensors"),
            run.api.delete(f"/api/v1/jobs/{run.job_id}"),
            run.api.get("/api/v1/usage"),
        ):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"]
    assert run.get("/artifacts/weights.safetensors").content == b"weights"


def start(tmp_path: Path, **environment: str) -> str:
    """Start an API that does not come up, and return its words."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_ACCESS")}
    ended = subprocess.run(
        [sys.executable, "-m", "symadj.api", "--port", "0"],
        env=inherited | {"SYMADJ_DATA": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_without_credentials_the_api_ends_with_a_sentence(tmp_path: Path, bucket: str) -> None:
    words = start(tmp_path, SYMADJ_STORAGE=bucket)
    assert "SYMADJ_STORAGE" in words
    assert "credentials" in words
    assert "AWS_ACCESS_KEY_ID" in words


@pytest.mark.parametrize(
    ("method", "path", "waiting"), [("GET", "/artifacts/weights.safetensors", 60), ("DELETE", "", 1)]
)
def test_what_waits_for_a_silent_bucket_holds_up_no_other_request_and_no_record(
    new_run: Callable[..., Run], bucket: str, bucket_server: BucketServer, method: str, path: str, waiting: int
) -> None:
    run, other = new_run(), new_run()
    store(open_storage(bucket), run, b"weights")
    run.end("succeeded", result={})
    step = {"kind": "step", "step": 1, "time": NOW, "metrics": {"loss": 1.0}}

    async def ask_beside_them() -> list[int]:
        asked = anyio.Semaphore(0)

        async def note(event: str, _info: object) -> None:
            if event == "http11.send_request_body.complete":
                asked.release()

        async with (
            httpx.AsyncClient(base_url=run.server.url, timeout=25, limits=httpx.Limits()) as api,
            anyio.create_task_group() as group,
        ):
            for _ in range(waiting):
                asking = functools.partial(api.request, method, f"/api/v1/jobs/{run.job_id}{path}")
                group.start_soon(functools.partial(asking, extensions={"trace": note}))
            for _ in range(waiting):
                await asked.acquire()
            shown = await api.get(f"/api/v1/jobs/{run.job_id}")
            stored = await to_thread.run_sync(lambda: other.send(step))
            group.cancel_scope.cancel()
        return [shown.status_code, stored.status_code]

    with bucket_server.silent():
        assert anyio.run(ask_beside_them) == [200, 200]


@pytest.mark.parametrize(
    ("variable", "place", "words"),
    [
        ("SYMADJ_STORAGE", "s3://there-is-none/prefix", "there is no such bucket"),
        ("SYMADJ_DATA_ROOTS", "/data:s3://there-is-none/prefix", "there is no such bucket"),
        ("SYMADJ_STORAGE", "s4://bucket/prefix", "s4"),
        ("SYMADJ_STORAGE", "gs://bucket/prefix", "a library is missing"),
        ("SYMADJ_STORAGE", "s3://user:password@bucket/prefix", "not taken"),
    ],
)
def test_a_wrong_bucket_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_server: BucketServer, variable: str, place: str, words: str
) -> None:
    monkeypatch.setenv(variable, place)
    with pytest.raises(ServeError, match=words) as caught:
        serve("127.0.0.1", 0, tmp_path, cpus=None, announce=lambda *_: None)
    assert variable in str(caught.value)
    assert "password" not in str(caught.value).replace("a user or a password", "")


def test_without_s3fs_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_server: BucketServer
) -> None:
    monkeypatch.setenv("SYMADJ_STORAGE", "s3a://bucket/prefix")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ServeError, match=r"'\.\[s3\]'"):
        serve("127.0.0.1", 0, tmp_path, cpus=None, announce=lambda *_: None)


def test_a_bucket_that_does_not_answer_ends_symadj_serve_and_not_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str, bucket_server: BucketServer
) -> None:
    monkeypatch.setenv("SYMADJ_STORAGE", bucket)
    with bucket_server.away():
        with pytest.raises(ServeError, match="endpoint"):
            serve("127.0.0.1", 0, tmp_path, cpus=None, announce=lambda *_: None)
        with running_api(tmp_path) as server:
            assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_a_start_does_not_wait_for_minutes_for_a_bucket_that_takes_questions_and_answers_none(
    monkeypatch: pytest.MonkeyPatch, bucket: str, bucket_server: BucketServer
) -> None:
    monkeypatch.setenv("SYMADJ_STORAGE", bucket)
    with bucket_server.silent(), pytest.raises(StorageUnreachableError, match=f"{bucket}: no answer within 0.5 s"):
        read_settings().check_buckets(seconds=0.5)


def test_rows_that_are_sent_and_the_flow_that_scores_them_are_kept_in_the_bucket(
    new_run: Callable[..., Run], bucket: str, tmp_path: Path
) -> None:
    run, storage, files = new_run(), open_storage(bucket), folder(tmp_path / "out", config())
    for name in (layout.CONFIG, layout.WEIGHTS):
        content = (files / name).read_bytes()
        storage.write(f"{layout.artifact_folder(run.job_id, 1)}/{name}", content)
        record = {"kind": "artifact", "time": NOW, "name": name, "media_type": "a/b", "bytes": len(content)}
        assert run.send(record | {"sha256": hashlib.sha256(content).hexdigest()}).status_code == 200
    headers, sent = {"Content-Type": "text/csv"}, b"fsc,ssc\n1,2\n"
    made = run.api.post(f"/api/v1/jobs/{run.job_id}/scores", content=sent, headers=headers)
    assert made.status_code == 201, made.text
    job_id = made.json()["id"]
    (item,) = run.api.get(f"/api/v1/jobs/{job_id}/artifacts").json()["items"]
    assert run.api.get(item["url"]).content == sent
    for name in (layout.CONFIG, layout.WEIGHTS):
        assert storage.read(f"{layout.flow_folder(job_id)}/{name}") == (files / name).read_bytes()
    run.api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert run.api.delete(f"/api/v1/jobs/{job_id}").status_code == 204
    assert not storage.children(job_id)
