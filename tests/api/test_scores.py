"""Scores of a trained flow as a job of their own, over HTTP."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import ByteSize
from typer.testing import CliRunner

from symadj.api.app import create_app
from symadj.api.cli import main
from symadj.api.client import Client
from symadj.service.contract.layout import flow_folder
from symadj.service.contract.spec.usual import OF_TRAINING
from symadj.service.settings import Settings
from tests.api.conftest import Run, trained_job
from tests.api.test_flow import with_files
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY, ApiServer
from tests.core.test_trained import config, folder

V1 = "/api/v1/jobs"
STORED = {"data": {"kind": "file", "path": "cells.csv"}}
CSV, NPY = {"Content-Type": "text/csv"}, {"Content-Type": "application/x-npy"}
ROWS = b"fsc,ssc\n1,2\n3,4\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a flow."""
    return folder(tmp_path_factory.mktemp("flow") / "out", config())


@pytest.fixture
def trained(new_run: Callable[..., Run], files: Path) -> Run:
    """A job that succeeded, with a trained flow."""
    run = with_files(new_run(), files)
    run.end("succeeded")
    return run


def ask(run: Run, **arguments: Any) -> httpx.Response:
    return run.api.post(f"{V1}/{run.job_id}/scores", **arguments)


def stored(server: ApiServer) -> Path:
    return server.data / "jobs"


def folders(server: ApiServer) -> set[str]:
    return folders_in(stored(server))


def folders_in(place: Path) -> set[str]:
    """Return the folders of jobs, and the marks of those of which files come in."""
    paths = [path for path in place.glob("*") if path.name != ".uploads"] + list(place.glob(".uploads/*"))
    return {str(path.relative_to(place)) for path in paths}


def test_a_request_makes_a_job_of_its_own_that_lives_as_every_job(trained: Run, files: Path) -> None:
    answer = ask(trained, json=STORED | {"name": "night", "labels": {"team": "x"}, "resources": {"workers": 3}})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"{V1}/{job['id']}"
    assert job["id"] != trained.job_id
    assert (job["state"], job["name"], job["labels"]) == ("queued", "night", {"team": "x"})
    spec = job["spec"]
    assert (spec["kind"], spec["units"], spec["settings"]) == ("scores", "original", "tested")
    assert spec["trained"]["job"] == trained.job_id
    assert spec["data"]["path"] == "cells.csv"
    assert spec["resources"]["workers"] == 3
    assert trained.api.get(answer.headers["location"]).json() == job
    assert job["id"] in [item["id"] for item in trained.api.get(V1, params={"label": "team=x"}).json()["items"]]
    assert trained.api.get(f"{V1}/{job['id']}/memory").json()["gradient"] is None
    assert trained.api.post(f"{V1}/{job['id']}/pause").json()["state"] == "paused"
    assert trained.api.post(f"{V1}/{job['id']}/resume").json()["state"] == "queued"
    assert trained.api.post(f"{V1}/{job['id']}/cancel").json()["state"] == "cancelled"
    assert trained.api.delete(f"{V1}/{job['id']}").status_code == 204
    assert job["id"] not in folders(trained.server)


def test_a_job_of_before_there_was_a_usual_training_scores_too(trained: Run) -> None:
    with sqlite3.connect(trained.server.data / "symadj.sqlite", timeout=30) as store:
        ((text,),) = store.execute("select spec from jobs where id = ?", [trained.job_id])
        older = {name: section for name, section in json.loads(text).items() if name not in OF_TRAINING}
        store.execute("update jobs set spec = ? where id = ?", [json.dumps(older), trained.job_id])
    answer = ask(trained, json=STORED)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["trained"]["job"] == trained.job_id


def test_the_trained_job_may_be_deleted_while_its_scores_wait(trained: Run, files: Path) -> None:
    job_id = ask(trained, json=STORED).json()["id"]
    assert trained.api.delete(f"{V1}/{trained.job_id}").status_code == 204
    own = stored(trained.server) / flow_folder(job_id)
    for name in ("config.json", "weights.safetensors"):
        assert (own / name).read_bytes() == (files / name).read_bytes()
    assert_problem(ask(trained, json=STORED), 404)


def written(rows: list[list[float]]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(rows))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("headers", "content", "name"),
    [(CSV, ROWS, "rows.csv"), (NPY, written([[1.0, 2.0]]), "rows.npy")],
    ids=["csv", "npy"],
)
def test_a_file_that_is_sent_is_an_artifact_of_the_job(
    trained: Run, headers: dict[str, str], content: bytes, name: str
) -> None:
    chosen = {"workers": 2, "units": "transformed", "settings": "trained", "name": "sent"}
    answer = ask(trained, content=content, headers=headers, params=chosen)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    spec = job["spec"]
    assert (spec["units"], spec["settings"], spec["resources"]["workers"]) == ("transformed", "trained", 2)
    assert job["name"] == "sent"
    sha256 = hashlib.sha256(content).hexdigest()
    assert (spec["data"]["kind"], spec["data"]["name"], spec["data"]["sha256"]) == ("uploaded", name, sha256)
    (artifact,) = trained.api.get(f"{V1}/{job['id']}/artifacts").json()["items"]
    assert (artifact["name"], artifact["bytes"], artifact["sha256"]) == (name, len(content), sha256)
    assert trained.api.get(artifact["url"]).content == content


def test_how_a_csv_file_that_is_sent_is_written_stands_in_the_spec(trained: Run, tmp_path: Path) -> None:
    written = {"delimiter": ";", "decimal": ",", "row_names": True, "header": False}
    asked = ask(trained, content=b"a;1,5;2\n", headers=CSV, params=written).json()["spec"]["data"]
    assert asked["csv"] == {"delimiter": ";", "decimal": ",", "encoding": "utf-8", "row_names": True}
    assert asked["header"] is False
    (tmp_path / "cells.csv").write_bytes(b"a;1,5;2\n")
    settings = ["data.csv.delimiter=;", 'data.csv.decimal=","', "data.csv.row_names=true", "data.header=false"]
    words = ["score", trained.job_id, str(tmp_path / "cells.csv"), "--url", trained.server.url]
    printed = CliRunner().invoke(main.app, [*words, *(word for setting in settings for word in ("--set", setting))])
    assert trained.api.get(f"{V1}/{printed.output.strip()}").json()["spec"]["data"] == asked
    refused = CliRunner().invoke(main.app, [*words, "--set", "data.columns=[a]"])
    assert refused.exit_code == 2
    assert "data.header" in refused.output


def test_a_request_that_is_repeated_under_its_key_makes_no_second_job(trained: Run) -> None:
    before = folders(trained.server)
    for arguments in ({"json": STORED}, {"content": ROWS}):
        headers = {"Idempotency-Key": f"key of {sorted(arguments)}".replace(" ", "-")}
        headers |= CSV if "content" in arguments else {}
        first, again = (ask(trained, headers=headers, **arguments) for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
    assert len(folders(trained.server) - before) == 2
    other = ask(trained, headers={"Idempotency-Key": "key-of-['json']"}, json=STORED | {"units": "transformed"})
    assert_problem(other, 422)


def test_a_job_without_weights_can_not_score(run: Run, trained: Run) -> None:
    problem = assert_problem(ask(run, json=STORED), 409)
    assert "has no config.json and no weights.safetensors: a run stores them at its end" in problem["detail"]
    scoring = ask(trained, json=STORED).json()["id"]
    for path in ("scores", "flow/log_prob"):
        body = STORED if path == "scores" else {"rows": [[1.0, 2.0]]}
        problem = assert_problem(run.api.post(f"{V1}/{scoring}/{path}", json=body), 409)
        assert f"it scored those of {trained.job_id}" in problem["detail"]


def test_a_job_that_scores_has_no_checkpoint_to_ask_for_or_to_go_on_from(trained: Run) -> None:
    scoring = ask(trained, json=STORED).json()["id"]
    problem = assert_problem(trained.api.post(f"{V1}/{scoring}/checkpoint"), 409)
    assert "keeps each piece of rows" in problem["detail"]
    problem = assert_problem(trained.api.post(V1, json=TOY | {"parent": {"job": scoring}}), 422)
    assert problem["errors"][0]["pointer"] == "/parent/job"
    assert "trains nothing" in problem["detail"]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ({"json": {"data": {"kind": "file", "path": "../x.csv"}}}, 422, "no `..`"),
        ({"json": {"data": {"kind": "file", "path": "x.csv", "batch_size": 5}}}, 422, "/data/batch_size"),
        ({"json": STORED | {"trained": {}}}, 422, "/trained"),
        ({"json": STORED | {"units": "feet"}}, 422, "/units"),
        ({"json": STORED | {"resources": {"workers": 2, "min_workers": 3}}}, 422, "/resources/min_workers"),
        ({"json": STORED | {"resources": {"microbatch_size": 5}}}, 422, "/resources/microbatch_size"),
        ({"json": STORED, "params": {"workers": 2}}, 422, "workers is for a file"),
        ({"content": ROWS, "headers": CSV, "params": {"workers": 0}}, 422, "workers"),
        ({"content": b"", "headers": CSV}, 422, "the body is empty"),
        ({"content": ROWS, "headers": CSV, "params": {"delimiter": "#"}}, 422, "delimiter"),
        ({"content": written([[1.0, 2.0]]), "headers": NPY, "params": {"header": "false"}}, 422, "header is about csv"),
        ({"json": STORED, "params": {"decimal": ","}}, 422, "decimal is about csv"),
        ({"content": ROWS, "headers": {"Content-Type": "text/plain"}}, 415, "application/x-npy"),
    ],
)
def test_what_can_not_be_scored_is_refused_by_name_and_leaves_nothing(
    trained: Run, arguments: dict[str, Any], status: int, told: str
) -> None:
    before = folders(trained.server)
    assert told in assert_problem(ask(trained, **arguments), status)["detail"]
    assert folders(trained.server) == before


def test_a_file_has_a_bound_and_an_owner_a_share_of_the_queue(tmp_path: Path, files: Path) -> None:
    app = create_app(
        Settings(data=tmp_path, upload_bytes=ByteSize(1000), max_queued_per_owner=3, allowed_hosts="testserver")
    )
    with TestClient(app) as client:
        path = f"{V1}/{trained_job(client, files)}/scores"
        there = folders_in(tmp_path / "jobs")
        for content in (b"x" * 1001, iter([b"x" * 600] * 2)):  # of which the length is declared, and is not
            problem = assert_problem(client.post(path, content=content, headers=CSV), 413)
            assert problem["max_bytes"] == 1000
        assert folders_in(tmp_path / "jobs") == there
        assert client.post(path, content=b"x" * 1000, headers=CSV).status_code == 201
        assert client.post(path, json=STORED).status_code == 201
        for arguments in ({"content": ROWS, "headers": CSV}, {"json": STORED}):
            assert assert_problem(client.post(path, **arguments), 429)["queued"] == 3
        assert len(folders_in(tmp_path / "jobs") - there) == 2


def test_a_client_that_leaves_in_the_middle_of_a_file_leaves_nothing(trained: Run) -> None:
    before = folders(trained.server)

    def half() -> Iterator[bytes]:
        yield ROWS
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        ask(trained, content=half(), headers=CSV)
    deadline = time.monotonic() + 30
    while folders(trained.server) != before and time.monotonic() < deadline:
        trained.api.get("/healthz")
    assert folders(trained.server) == before


def test_the_client_and_the_command_line_send_a_file_or_name_one(trained: Run, tmp_path: Path) -> None:
    file = tmp_path / "cells.csv"
    file.write_bytes(ROWS)
    with Client(trained.server.url) as client:
        sent = client.score(trained.job_id, file, workers=2, name="sent")
        named = client.score(trained.job_id, {"kind": "parquet_stream", "path": "cells"}, workers=2)
    assert sent.spec["data"]["bytes"] == len(ROWS)
    assert (named.spec["data"]["path"], named.spec["resources"]["workers"]) == ("cells", 2)
    runner = CliRunner()
    url = ("--url", trained.server.url)
    printed = runner.invoke(main.app, ["score", trained.job_id, str(file), "--workers", "2", *url])
    assert printed.exit_code == 0, printed.output
    job = trained.api.get(f"{V1}/{printed.output.strip()}").json()
    assert job["spec"]["data"]["kind"] == "uploaded"
    printed = runner.invoke(main.app, ["score", trained.job_id, "sets/cells.parquet", "--stored", *url])
    job = trained.api.get(f"{V1}/{printed.output.strip()}").json()
    assert job["spec"]["data"] == {"kind": "parquet_stream", "path": "sets/cells.parquet"}
    shown = runner.invoke(main.app, ["show", job["id"], *url])
    assert shown.exit_code == 0, shown.output
    assert trained.job_id in shown.output
    assert "rows_per_second?points" in shown.output


def test_a_job_that_scores_is_in_no_comparison_whatever_its_label(trained: Run) -> None:
    assert ask(trained, json=STORED | {"labels": {"comparison": "by-hand"}}).status_code == 201
    assert_problem(trained.api.get("/api/v1/comparisons/by-hand"), 404)


def test_a_result_of_scores_is_shown_as_that(trained: Run, new_run: Callable[..., Run]) -> None:
    scores = {"rows": 1000, "log_prob": -3.25, "log_prob_stderr": 0.125, "seconds": 2.0, "rows_per_second": 500.0}
    run = new_run()
    run.end("succeeded", result={"scores": scores})
    assert run.get("").json()["result"]["scores"] == scores
    shown = CliRunner().invoke(main.app, ["show", run.job_id, "--url", run.server.url])
    assert "1,000 rows scored: mean log-density -3.250 nats a row, standard error 0.125" in shown.output
    assert "500 rows a second" in shown.output
