"""The result of a job, from the store to the client, whichever version stored it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
from pydantic import BaseModel

from symadj.api.client import Client
from symadj.service.contract.records import PRETRAINING_SHORTENED
from symadj.service.contract.result import (
    Baselines,
    Calibration,
    ColumnRanks,
    Coverage,
    GradientError,
    InverseError,
    JobResult,
    MixtureBaseline,
    ScoresResult,
    TestSolver,
    TwoSampleTest,
)
from symadj.service.contract.states import JobState
from symadj.service.store import jobs
from tests.api.conftest import NOW, Run
from tests.command import symadj
from tests.conftest import ApiServer

# As symadj 0.1.0 stored it, before the result had a type (a toy of 2,000 rows; figures shortened).
STORED_BEFORE: dict[str, Any] = {
    "steps": 150,
    "stopped_early": False,
    "weights_of_step": 150,
    "train_seconds": 2.546,
    "parameters": 528,
    "validation_nll": 2.826,
    "test_nll": 2.675,
    "test_nll_stderr": 0.037,
    "test_nll_original_units": 1.827,
    "test_nll_original_units_stderr": 0.037,
    "test_bits_per_dim": None,
    "test_bits_per_dim_stderr": None,
    "test_nll_training_tolerance": 2.675,
    "test_nll_gap": -1.887e-06,
    "test_nll_gap_stderr": 5.661e-07,
    "test_rows": 200,
    "nfe_test": 40.0,
    "test_solver": {"divergence": "exact", "method": "dopri5", "dtype": "float32", "rtol": 1e-05, "atol": 1e-06},
    "inverse_error": {"rows": 200, "max": 1.788e-05, "rms": 6.84e-06},
    "two_sample": {"rows": 100, "accuracy": 0.64, "accuracy_stderr": 0.034, "auc": 0.676, "auc_stderr": 0.039},
    "density_integral": 0.9999999676,
    "density_integral_spread": 1.714e-08,
    "baselines": {"gaussian": 2.683, "gaussian_mixture": {"components": 10, "test_nll": "NaN"}},
    "evaluate_seconds": 2.572,
}

CURVE = Coverage(coverage=[0.25, 0.5, 0.7], area=-0.02, area_stderr=0.03, ks_p=0.4)
CALIBRATION = Calibration(
    rows=40,
    draws=100,
    divergence="exact",
    columns=[
        ColumnRanks(
            column="CD4 \N{GREEK SMALL LETTER ALPHA}",
            counts=[19, 21],
            mean=0.52,
            mean_stderr=0.046,
            central_half=0.5,
            central_half_stderr=0.079,
            ks_p=1e-300,
        )
    ],
    columns_tested=1,
    counts_expected=20.0,
    counts_low=12,
    counts_high=28,
    levels=[0.25, 0.5, 0.75],
    band=0.21,
    highest_density=CURVE,
    tarp=CURVE,
)


def finish(run: Run, result: dict[str, Any]) -> None:
    """Store the end of a job as an earlier version did."""
    with run.database.session() as session:
        job = jobs.lock(session, run.job_id)
        job.state, job.result = JobState.SUCCEEDED, result
        job.host_peak_bytes = 500 * 2**20


def test_a_result_of_an_earlier_version_is_read_whole(api_server: ApiServer, api: httpx.Client, run: Run) -> None:
    finish(run, STORED_BEFORE | {"a_figure_of_another_version": [1, 2]})
    with Client(api_server.url) as client:
        result = client.job(run.job_id).result
    assert result is not None
    assert (result.test_nll, result.steps, result.host_peak_bytes) == (2.675, 150, 500 * 2**20)
    assert result.baselines is not None
    assert result.baselines.gaussian_mixture is not None
    assert result.baselines.gaussian_mixture.test_nll is not None
    assert math.isnan(result.baselines.gaussian_mixture.test_nll)
    answer = api.get(f"/api/v1/jobs/{run.job_id}").json()["result"]
    assert {name: answer[name] for name in STORED_BEFORE if not isinstance(answer[name], dict)} == {
        name: value for name, value in STORED_BEFORE.items() if not isinstance(value, dict)
    }
    assert answer["a_figure_of_another_version"] == [1, 2]
    assert answer["baselines"]["gaussian_mixture"]["test_nll"] == "NaN"


def test_a_calibration_comes_from_the_store_to_the_client_as_the_run_measured_it(
    api_server: ApiServer, api: httpx.Client, run: Run
) -> None:
    finish(run, JobResult(steps=3, calibration=CALIBRATION).stored())
    with Client(api_server.url) as client:
        result = client.job(run.job_id).result
    assert result is not None
    assert result.calibration == CALIBRATION
    answer = api.get(f"/api/v1/jobs/{run.job_id}").json()["result"]["calibration"]
    assert Calibration.model_validate(answer) == CALIBRATION


def test_a_job_whose_rows_allow_fewer_steps_counts_towards_those(run: Run) -> None:
    asked = run.get("").json()["progress"]["max_steps"]
    said = {"kind": "event", "time": NOW, "name": PRETRAINING_SHORTENED, "message": "", "data": {"max_steps": 12}}
    assert run.send(said).status_code == 200
    assert run.get("").json()["progress"]["max_steps"] == 12 < asked


def test_a_result_without_an_evaluation_is_read(api: httpx.Client, run: Run) -> None:
    finish(run, {"steps": 3, "stopped_early": False, "train_seconds": 1.0, "parameters": 5})
    answer = api.get(f"/api/v1/jobs/{run.job_id}").json()["result"]
    assert (answer["steps"], answer["test_nll"]) == (3, None)


def test_what_of_a_report_could_not_be_made_is_shown(run: Run) -> None:
    failed = {"part": "test", "reason": "solver_stuck", "message": "the step [0.1] fell below\nTraceback"}
    drawn = {"part": "density.png", "reason": None, "message": "no ink"}
    finish(run, {"steps": 3, "parameters": 528, "report_failures": [failed, drawn]})
    shown = symadj(run.server, "show", run.job_id).stdout
    assert "No test NLL: it could not be measured." in shown
    assert "528 parameters, 3 steps" in shown
    rows = [line.rstrip().split(maxsplit=2) for line in shown.partition("Not in the report")[2].splitlines()]
    assert ["test", "solver_stuck", "the step [0.1] fell below"] in rows
    assert ["density.png", "-", "no ink"] in rows
    assert "Traceback" not in shown


def parts_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the fields of ``model`` that are models themselves, by their names."""
    found = {}
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found[name] = kind
    return found


def figures_of(model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield every figure of ``model`` and of its parts: the model that it is in, and its name."""
    parts = parts_of(model)
    for name in model.model_fields:
        if name in parts:
            yield from figures_of(parts[name])
        else:
            yield model, name


def test_the_documented_interface_shows_every_figure_of_a_result_with_its_unit(api: httpx.Client) -> None:
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["JobResult"]["properties"].keys() == JobResult.model_fields.keys()
    shown = {(model, name): schemas[model.__name__]["properties"][name] for model, name in figures_of(JobResult)}
    assert {model for model, _ in shown} == {
        JobResult,
        TestSolver,
        InverseError,
        GradientError,
        TwoSampleTest,
        Calibration,
        ColumnRanks,
        Coverage,
        Baselines,
        MixtureBaseline,
        ScoresResult,
    }
    assert [
        f"{model.__name__}.{name}" for (model, name), schema in shown.items() if not schema.get("description")
    ] == []
    units = {"nll": "nats", "seconds": "seconds", "bytes": "bytes", "bits_per_dim": "bits"}
    for (model, name), schema in shown.items():
        unit = next((unit for part, unit in units.items() if part in name), None)
        if unit is not None:
            assert unit in schema["description"].lower(), f"{model.__name__}.{name}"


def test_the_page_on_training_explains_every_figure_of_a_result() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "training.md").read_text()
    section = page.partition("## What the result tells")[2].partition("\n## ")[0]
    missing = [
        name
        for name in JobResult.model_fields
        if f"`{name}`" not in section and not name.endswith(("_stderr", "_spread"))
    ]
    assert missing == []
