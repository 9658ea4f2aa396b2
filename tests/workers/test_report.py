"""A trained job does not fail for its report, and what can't be evaluated is refused before it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.workers import plots
from symadj.workers.model.build import build_flow, evaluation_flow
from symadj_core.trained import build
from tests import fuzz
from tests.workers.runs import SMALL, run

QUICK: dict[str, Any] = {"validate_every_steps": None, "mixture_components": 0, "two_sample_rows": 0, "inverse_rows": 0}


def names(outbox: Any, kind: str) -> list[str]:
    return [record.name for record in outbox.of(kind)]


def test_a_test_that_the_solver_does_not_finish_is_missing_in_the_report_of_a_job_that_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loose tolerances of the training need a step or two, those of the test more.
    monkeypatch.setattr(build, "MOST_ADAPTIVE_STEPS", 2)
    evaluation = QUICK | {"tolerance_factor": 1e-6, "inverse_rows": 10, "plots": True}
    outcome, outbox = run(tmp_path, evaluation=evaluation, stop={"max_steps": 1})
    assert outcome is not None
    assert outcome.state == "succeeded", outcome.message
    failed = {failure.part: failure for failure in outcome.result.report_failures}
    assert failed["test"].reason == "solver_stuck"
    assert "test (solver_stuck)" in outcome.message
    assert outcome.result.test_nll is None
    assert outcome.result.inverse_error.rows == 10
    # It was said before the training, and the weights can be had and gone on from.
    events = names(outbox, "event")
    assert events.index("evaluation_doubtful") < events.index("training_finished") < events.index("report_part_failed")
    assert {"weights.safetensors", "config.json", "curve.png", "pairs.png"} <= set(names(outbox, "artifact"))
    assert "finished" in [record.cause for record in outbox.of("checkpoint")]


@pytest.mark.parametrize("picture", ["trajectories", "curve"])
def test_a_picture_that_cannot_be_drawn_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: str
) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("no ink")

    monkeypatch.setattr(plots, f"draw_{picture}", fail)
    outcome, outbox = run(tmp_path, evaluation=QUICK | {"plots": True, "test": False}, stop={"max_steps": 1})
    assert outcome is not None
    assert outcome.state == "succeeded"
    (failure,) = outcome.result.report_failures
    assert failure.part == f"{picture}.png"
    assert "no ink" in failure.message
    drawn = {f"{name}.png" for name in ("pairs", "density", "trajectories", "steps", "curve")} - {failure.part}
    assert drawn <= set(names(outbox, "artifact"))


def test_a_report_without_failures_says_nothing(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, evaluation=QUICK | {"plots": False})
    assert outcome is not None
    assert (outcome.state, outcome.message) == ("succeeded", "")
    assert outcome.result.report_failures is None
    assert "evaluation_doubtful" not in names(outbox, "event")


@pytest.mark.parametrize("section", ["flow", "evaluation"])
def test_a_divergence_that_the_columns_of_a_file_do_not_allow_is_a_data_error_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    np.save(tmp_path / "three.npy", np.random.default_rng(0).standard_normal((100, 3)))
    changed = SMALL[section] | {"divergence": {"kind": "hutchpp"}}
    data = {"kind": "file", "path": "three.npy", "batch_size": 32}
    outcome, outbox = run(tmp_path / "jobs", data=data, **{section: changed})
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", "data_error")
    assert "below the dimension 3" in outcome.message
    assert outbox.of("step") == []


@pytest.mark.parametrize(("end_time", "rate"), [(1e-6, 1e-3), (0.5, 10.0)])
def test_an_end_time_that_an_optimiser_takes_below_zero_gives_a_whole_report(
    tmp_path: Path, end_time: float, rate: float
) -> None:
    flow = {"blocks": 1, "field": {"hidden": [8]}, "end_time": end_time, "learn_end_time": True}
    evaluation = QUICK | {"plots": True, "inverse_rows": 10}
    optimizer = {"kind": "sgd", "learning_rate": rate, "clip_norm": None} if rate > 1 else {"learning_rate": rate}
    outcome, _ = run(tmp_path, flow=flow, optimizer=optimizer, evaluation=evaluation)
    assert outcome is not None
    assert outcome.state == "succeeded", outcome.message
    assert outcome.result.report_failures is None


@pytest.mark.parametrize(
    "solver",
    [
        {"kind": "fixed", "method": "euler", "steps": 100_000},
        {"kind": "fixed", "method": "rk4", "steps": 1},
        {"kind": "adaptive", "rtol": 5e-324, "atol": 5e-324, "max_steps": 1_000_000},
    ],
)
def test_a_test_takes_no_more_steps_than_a_spec_may_ask_for(solver: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(SMALL | {"solver": solver})
    flow, how = evaluation_flow(build_flow(spec, 2), spec, Evaluation(tolerance_factor=1e-6))
    controller = flow.stack()[0].settings.controller
    if how.steps is None:
        assert how.rtol
        assert controller.max_steps == 1_000_000  # type: ignore[attr-defined]
    else:
        assert how.steps == {100_000: 100_000, 1: 32}[solver["steps"]]


@pytest.mark.parametrize("fault", ["missing", "constant", "twice"])
def test_a_column_with_an_endless_name_is_a_data_error(tmp_path: Path, fault: str) -> None:
    long = "n" * 100_000
    header = f"{long},{long}" if fault == "twice" else f"{long},b"
    rows = [f"{1 if fault == 'constant' else n},{n * n % 7}" for n in range(200)]
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]) + "\n")
    data = {"kind": "file", "path": "a.csv", "batch_size": 32} | ({"columns": ["c"]} if fault == "missing" else {})
    outcome, _ = fuzz.run(JobSpec.model_validate(SMALL | {"data": data}), tmp_path)
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", "data_error"), outcome.message
    assert len(outcome.message) <= 20_000


def test_random_specs_end_without_a_fault_of_ours(tmp_path: Path) -> None:
    # A run stops between steps: with some seeds there is a step of a minute. Each field that a spec gets draws others.
    tally = fuzz.fuzz(3, range(12), tmp_path, patience_s=1.0)
    assert tally.faults == []
    assert sum(tally.ends.values()) == 12
