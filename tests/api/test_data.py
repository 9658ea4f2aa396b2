"""What was read for a job, over HTTP and on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from symadj.api.client import Client
from tests.api.conftest import NOW, Run
from tests.command import symadj

TRANSFORMS = [{"kind": "arcsinh", "scale": 150.0, "columns": ["CD4"]}, {"kind": "standardise", "columns": None}]


def column(name: str, **fields: Any) -> dict[str, Any]:
    values = {"context": False, "dtype": "float32", "min": -1.25, "mean": 0.1234567, "max": 262143.0, "zeros": 0.0}
    return {"name": name, "not_finite": 0, "remarks": [], **values, **fields}


def record(*columns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    source = {"name": "cells.fcs", "format": "fcs", "rows": 11_000, "dim": len(columns), "columns": list(columns)}
    source |= {"notes": ["gain 2 was applied to channel CD4"], "remarks": []} | fields
    return {"kind": "data", "time": NOW, "summary": {"sources": [source], "image": None, "transforms": TRANSFORMS}}


def test_the_data_are_shown_before_any_worker_has_reported(run: Run) -> None:
    assert run.get("/data").json()["missing"] == "the data have not been read yet"
    sent = record(column("CD4"), column("Time", context=True, zeros=0.6, remarks=["mostly zeros"]))
    assert run.send(sent, source="driver").status_code == 200
    assert run.get("").json()["state"] == "starting"
    answer = run.get("/data").json()
    assert (answer["attempt"], answer["summary"], answer["missing"]) == (1, sent["summary"], None)
    shown = symadj(run.server, "show", run.job_id).stdout
    for part in ("cells.fcs (fcs): 11,000 rows of 2 columns", "262143", "0.12346", "60.0 %", "mostly zeros"):
        assert part in shown
    assert "- gain 2 was applied to channel CD4" in shown
    assert "arcsinh (scale 150.0) of CD4, then standardise; the context is standardised." in shown


def test_figures_that_are_missing_or_infinite_are_read_and_shown(run: Run) -> None:
    run.send(
        record(column("x", min=None, mean=None, max=None, not_finite=5), column("y", mean="Infinity", min=-129270.25))
    )
    with Client(run.server.url) as client:
        summary = client.data(run.job_id).summary
    assert summary is not None
    x, y = summary.sources[0].columns
    assert (x.min, x.not_finite, y.mean) == (None, 5, float("inf"))
    shown = symadj(run.server, "show", run.job_id).stdout
    assert "inf" in shown
    assert "-129270 " in shown, "as people write it, without an exponent"


def test_of_ten_thousand_columns_the_api_has_all_and_show_those_to_look_at(run: Run) -> None:
    columns = [column(f"gene {place}") for place in range(10_000)]
    columns[7777] = column("gene 7777", remarks=["constant"])
    assert run.send(record(*columns)).status_code == 200
    with Client(run.server.url) as client:
        summary = client.data(run.job_id).summary
    assert summary is not None
    assert [item.name for item in summary.sources[0].columns] == [f"gene {place}" for place in range(10_000)]
    shown = symadj(run.server, "show", run.job_id).stdout
    assert "gene 0 " in shown
    assert "gene 7777" in shown
    assert "gene 7776" not in shown
    assert f"9,979 more columns are not shown: GET /api/v1/jobs/{run.job_id}/data has them all" in shown
    assert len(shown.splitlines()) < 80


@pytest.mark.parametrize("trained", [True, False])
def test_a_job_of_an_earlier_version_says_plainly_that_there_is_no_summary(run: Run, trained: bool) -> None:
    if trained:
        run.send({"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": 1.0}})
    run.end("failed", reason="internal", message="a fault")
    answer = run.get("/data").json()
    assert answer["summary"] is None
    assert ("was trained by a version of symadj" in answer["missing"]) == trained
    assert f"No summary of the data: {answer['missing']}." in symadj(run.server, "show", run.job_id).stdout


def test_a_column_called_like_markup_is_shown_as_it_is(run: Run) -> None:
    run.send(record(column("[red]x[/red]"), column("a" * 300)))
    shown = symadj(run.server, "show", run.job_id).stdout
    assert "[red]x[/red]" in shown
    assert "a" * 41 not in shown


def test_the_data_of_an_unknown_job_are_not_found(run: Run) -> None:
    answer = run.api.get("/api/v1/jobs/job-none/data")
    assert answer.status_code == 404
    assert "there is no job" in answer.json()["detail"]
