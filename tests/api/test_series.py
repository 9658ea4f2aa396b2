"""Several metrics in one answer, and all values as tables."""

from __future__ import annotations

import csv
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from symadj.api.schemas.telemetry import MetricSeriesRead, SeriesList
from symadj.service.store import Database
from symadj.service.store.export import metric_rows
from tests.api.conftest import NOW, Run
from tests.api.test_jobs import assert_problem
from tests.command import symadj
from tests.service.lives import claim, send, submit

STEPS = 30


def step(number: int, **metrics: Any) -> dict[str, Any]:
    return {"kind": "step", "time": NOW, "step": number, "metrics": metrics}


@pytest.fixture
def trained(run: Run) -> Run:
    """A run with two metrics of every step, one of few, and a memory record."""
    steps = [step(n, loss=1 / n, nfe=float(n)) for n in range(1, STEPS + 1)]
    steps[9]["metrics"]["validation_nll"] = 0.1
    steps[19]["metrics"]["loss"] = "NaN"
    sizes = {f"host_{what}_bytes": 2**40 + 1 for what in ("idle", "peak")} | {
        f"device_{what}_bytes": None for what in ("idle", "peak")
    }
    memory = {"kind": "memory", "time": NOW, "step": 1, "rank": 0, "phase": "forward"} | sizes
    assert run.send(*steps, memory).status_code == 200
    return run


def table(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_several_metrics_come_in_one_answer_as_each_would_alone(trained: Run) -> None:
    answer = trained.get("/series", params={"name": ["nfe", "loss"], "points": 7})
    alone = {name: trained.get(f"/metrics/{name}", params={"points": 7}).json() for name in ("nfe", "loss")}
    assert [item["name"] for item in answer.json()["items"]] == ["nfe", "loss"]
    for item in answer.json()["items"]:
        assert item["buckets"] == alone[item["name"]]["buckets"]
    assert len(trained.get("/series").json()["items"]) == 3
    unchanged = trained.get(
        "/series", params={"name": ["nfe", "loss"], "points": 7}, headers={"If-None-Match": answer.headers["etag"]}
    )
    assert unchanged.status_code == 304
    trained.send(step(STEPS + 1, loss=0.5))
    assert trained.get("/series", headers={"If-None-Match": answer.headers["etag"]}).status_code == 200
    absent = assert_problem(trained.get("/series", params={"name": ["loss", "los"]}), 404)
    assert "'los'" in absent["detail"]


@pytest.mark.parametrize("path", ["", "/loss"])
@pytest.mark.parametrize("query", ["points=7", "after_seq=0"])
def test_values_are_written_as_their_schema_says(trained: Run, path: str, query: str) -> None:
    trained.send(step(STEPS + 1, loss="Infinity"), step(STEPS + 2, loss="-Infinity"))
    schema: type[MetricSeriesRead] | type[SeriesList] = MetricSeriesRead if path else SeriesList
    answer = trained.get(f"/metrics{path}?{query}" if path else f"/series?name=loss&name=nfe&{query}")
    assert answer.text == schema.model_validate_json(answer.content).model_dump_json()
    assert '"-Infinity"' in answer.text


def test_all_values_are_a_table_with_a_line_a_step(trained: Run) -> None:
    rows = table(trained.get("/series", headers={"Accept": "text/csv"}))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert [float(row["nfe"]) for row in rows] == [float(n) for n in range(1, STEPS + 1)]
    assert float(rows[2]["loss"]) == 1 / 3
    assert math.isnan(float(rows[19]["loss"]))
    assert [row["step"] for row in rows if row["validation_nll"]] == ["10"]
    (record,) = table(trained.get("/memory/steps", headers={"Accept": "text/csv"}))
    assert (record["phase"], record["host_peak_bytes"], record["device_peak_bytes"]) == ("forward", str(2**40 + 1), "")
    assert_problem(trained.get("/series", headers={"Accept": "image/png"}), 406)


def test_a_part_of_the_steps_is_drawn_anew_and_written_by_itself(trained: Run) -> None:
    wanted = {"name": "loss", "points": 5, "first_step": 4, "last_step": 13}
    (part,) = trained.get("/series", params=wanted).json()["items"]
    assert [(item["first_step"], item["last_step"]) for item in part["buckets"]] == [
        (first, first + 1) for first in range(4, 13, 2)
    ]
    assert part["buckets"][0]["maximum"] == 1 / 4
    (rest,) = trained.get("/series", params={"name": "loss", "first_step": STEPS - 1}).json()["items"]
    assert [item["last"] for item in rest["buckets"]] == [1 / (STEPS - 1), 1 / STEPS]
    rows = table(trained.get("/series", params=wanted, headers={"Accept": "text/csv"}))
    assert [row["step"] for row in rows] == [str(number) for number in range(4, 14)]


def test_what_is_new_in_several_metrics_comes_in_one_answer_and_is_waited_for(trained: Run) -> None:
    wanted: dict[str, Any] = {"name": ["nfe", "loss"], "limit": 7}
    seen: dict[str, list[int]] = {"nfe": [], "loss": []}
    after = 0
    while True:
        items = trained.get("/series", params=wanted | {"after_seq": after}).json()["items"]
        for item in items:
            seen[item["name"]] += [point["step"] for point in item["points"]]
        if items[0]["next_after_seq"] == after:
            break
        after = items[0]["next_after_seq"]
    assert seen["nfe"] == seen["loss"] == list(range(1, STEPS + 1))
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(trained.get, "/series", params=wanted | {"after_seq": after, "wait": 25})
        trained.send(step(STEPS + 1, loss=0.5, nfe=2.0))
        items = waiting.result().json()["items"]
    assert [[point["value"] for point in item["points"]] for item in items] == [[2.0], [0.5]]
    trained.end("succeeded", result={})
    after = items[0]["next_after_seq"]
    last = trained.get("/series", params=wanted | {"after_seq": after, "wait": 25}).json()["items"]
    assert [(item["points"], item["complete"]) for item in last] == [([], True)] * 2


@pytest.mark.parametrize("path", ["/series", "/memory"])
def test_steps_that_end_before_they_begin_are_refused(trained: Run, path: str) -> None:
    problem = assert_problem(trained.get(path, params={"first_step": 10, "last_step": 9}), 422)
    assert "last_step is 9 and must not be before first_step, which is 10" in problem["detail"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_line_writes_them_to_a_file(trained: Run, tmp_path: Path, ending: str) -> None:
    metrics, memory = tmp_path / f"metrics.{ending}", tmp_path / f"memory.{ending}"
    assert symadj(trained.server, "metrics", trained.job_id, "--out", str(metrics)).stdout.strip() == str(metrics)
    assert symadj(trained.server, "memory", trained.job_id, "--out", str(memory)).returncode == 0
    if ending == "csv":
        assert len(metrics.read_text().splitlines()) == STEPS + 1
    else:
        read = pyarrow.parquet.read_table(metrics)
        assert read["validation_nll"].null_count == STEPS - 1
        assert read["loss"][2].as_py() == 1 / 3
        assert pyarrow.parquet.read_table(memory)["host_peak_bytes"].to_pylist() == [2**40 + 1]
    assert sorted(tmp_path.iterdir()) == sorted([memory, metrics])
    assert "must end with" in symadj(trained.server, "metrics", trained.job_id, "--out", "a.txt").stderr


def test_a_table_has_each_step_once_however_many_pages_are_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symadj.service.store.blocks.MOST_RECORDS", 2)
    monkeypatch.setattr("symadj.service.store.export._BLOCKS", 4)
    job_id = submit(database)
    steps = [step(number, loss=float(number)) for number in range(1, 8)]
    steps[2]["metrics"]["b"] = 2.0
    send(database, claim(database, job_id).token, 1, *steps)
    rows = list(metric_rows(database, job_id, ["b", "loss"]))
    assert [row[0] for row in rows] == list(range(1, 8))
    assert rows[2] == [3, 2.0, 3.0]
    assert rows[3] == [4, None, 4.0]
