"""Training and evaluation in one process, without Ray."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import StopReason
from symadj.workers.attempt import run_worker
from symadj.workers.checking import check_spec
from symadj.workers.delivery.outbox import TelemetryError
from symadj.workers.model.build import build_flow
from symadj.workers.ray.reading import read_data
from tests.workers.ingest import TOKEN, IngestServer
from tests.workers.runs import SMALL, KeepingOutbox, order, run


def test_a_run_reports_every_step_once_with_its_metrics(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path)
    assert outcome is not None
    assert outcome.state == "succeeded"
    steps = [record for record in outbox.of("step") if "loss" in record.metrics]
    assert [record.step for record in steps] == [1, 2, 3, 4, 5, 6]
    for record in steps:
        assert record.metrics.keys() == {
            "loss",
            "learning_rate",
            "grad_norm",
            "nfe_forward",
            "nfe_backward",
            "steps_accepted",
            "steps_rejected",
            "step_seconds",
            "examples_per_second",
        }
        assert all(math.isfinite(value) for value in record.metrics.values())
        assert record.metrics["nfe_backward"] > 0
    validated = [record.step for record in outbox.of("step") if "validation_nll" in record.metrics]
    assert validated == [4, 6]
    assert [event.name for event in outbox.of("event")] == [
        "training_started",
        "training_finished",
        "evaluation_started",
        "test_scored",
    ]


def test_every_step_has_the_memory_of_its_three_phases_and_what_follows_it_its_own(tmp_path: Path) -> None:
    _, outbox = run(tmp_path)
    memory = outbox.of("memory")
    of_steps = [(step, phase) for step in range(1, 7) for phase in ("forward", "backward", "optimizer")]
    others = [(4, "validation"), (6, "validation"), (6, "evaluation")]
    assert Counter((record.step, record.phase) for record in memory) == Counter(of_steps + others)
    for record in memory:
        assert record.device_peak_bytes is None
        if record.host_peak_bytes is not None:
            assert record.host_peak_bytes > 2**20
            assert record.host_idle_bytes > 2**20


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    _, outbox = run(tmp_path, stop={"kind": "steps", "max_steps": 60}, evaluation=None)
    losses = outbox.series("loss")
    assert sum(losses[-10:]) < sum(losses[:10]) - 1.0


def test_the_same_spec_gives_the_same_series_bit_for_bit_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (
        run(tmp_path / str(number), seed=seed)[1].series("loss") for number, seed in enumerate((5, 5, 6))
    )
    assert first == again
    assert first != other


def test_the_weights_of_equal_runs_are_equal_files(tmp_path: Path) -> None:
    digests = [
        {a.name: a.sha256 for a in run(tmp_path / name)[1].of("artifact")}["weights.safetensors"] for name in "ab"
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("gradient", ["backprop", "onecheckpoint", "aca", "adjoint"])
def test_every_gradient_method_trains(tmp_path: Path, gradient: str) -> None:
    symplectic = run(tmp_path, evaluation=None)[1].series("loss")
    losses = run(tmp_path, evaluation=None, gradient={"kind": gradient})[1].series("loss")
    assert losses[0] == pytest.approx(symplectic[0], rel=1e-6)
    assert losses[-1] == pytest.approx(symplectic[-1], rel=1e-3)


@pytest.mark.parametrize(
    "keep", [{"kind": "steps"}, {"kind": "binomial", "states": 2}, {"kind": "budget", "size": "1MiB"}]
)
def test_whatever_the_symplectic_method_keeps_the_losses_are_the_same_bits(
    tmp_path: Path, keep: dict[str, Any]
) -> None:
    stages = run(tmp_path, evaluation=None)[1].series("loss")
    assert run(tmp_path, evaluation=None, gradient={"kind": "symplectic", "keep": keep})[1].series("loss") == stages


@pytest.mark.parametrize(
    "changes",
    [
        {"solver": {"kind": "fixed", "method": "rk4", "steps": 3}},
        {"flow": {"kind": "cnf", "field": {"hidden": [8], "time": "concat"}, "divergence": {"kind": "exact"}}},
        {"flow": {"kind": "cnf", "field": {"hidden": [8], "activation": "softplus"}, "dtype": "float64"}},
        {"optimizer": {"kind": "sgd", "learning_rate": 1e-2, "clip_norm": None}},
        {"optimizer": {"kind": "adamw", "schedule": {"kind": "cosine", "warmup_steps": 2}}},
        {"gradient": {"kind": "adjoint", "rtol": 1e-3, "atol": 1e-4}},
    ],
)
def test_other_choices_of_the_spec_run_to_the_end(tmp_path: Path, changes: dict[str, Any]) -> None:
    outcome, _ = run(tmp_path, **changes)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert math.isfinite(outcome.result.test_nll)


def test_the_result_is_a_valid_outcome_with_likelihoods_and_baselines(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path)
    assert outcome is not None
    result = OutcomeRecord.model_validate_json(outcome.model_dump_json()).result
    assert result is not None
    assert result.test_rows == 40
    assert 0 < result.test_nll_stderr < 1
    # Moons are narrower than a unit, so that the standardised rows are spread wider than the raw ones.
    assert result.test_nll_original_units < result.test_nll
    assert result.test_solver.model_dump(exclude_none=True) == {
        "divergence": "exact",
        "method": "dopri5",
        "dtype": "float32",
        "rtol": pytest.approx(1e-4),
        "atol": pytest.approx(1e-5),
    }
    assert result.validation_nll == outbox.series("validation_nll")[-1]
    assert result.baselines.gaussian == pytest.approx(2.5, abs=0.3)
    assert result.baselines.gaussian_mixture.components == 2


def test_a_tolerance_too_tight_for_float32_is_tested_in_float64(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, solver={"kind": "adaptive", "rtol": 1e-4, "atol": 1e-5})
    assert outcome is not None
    assert outcome.result.test_solver.dtype == "float64"


def test_the_saved_weights_and_transforms_give_the_flow_back(tmp_path: Path) -> None:
    _, outbox = run(tmp_path)
    folder = tmp_path / "job-1" / "artifacts" / "1"
    stored = {"weights.safetensors", "config.json", "test_rows.npy", "README.md"}
    assert {record.name for record in outbox.of("artifact")} == stored
    assert {file.name for file in folder.iterdir()} == stored
    config = json.loads((folder / "config.json").read_text())
    flow = build_flow(JobSpec.model_validate(config["spec"]), len(config["columns"]))
    flow.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    assert [transform["kind"] for transform in config["transforms"]] == ["standardise"]
    assert flow.sample((3,)).shape == (3, 2)


def test_plots_are_artifacts(tmp_path: Path) -> None:
    _, outbox = run(tmp_path, evaluation={"mixture_components": 2})
    for name in ("curve.png", "pairs.png"):
        (record,) = [artifact for artifact in outbox.of("artifact") if artifact.name == name]
        content = (tmp_path / "job-1" / "artifacts" / "1" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) == record.bytes


def test_a_cancelled_run_stops_at_the_next_step(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, KeepingOutbox(stop_after=2))
    assert outcome is not None
    assert (outcome.state, outcome.message) == ("cancelled", "cancelled after step 2")
    assert len(outbox.series("loss")) == 2


def test_a_run_cancelled_after_its_last_step_ends_in_the_evaluation_with_its_weights_saved(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, KeepingOutbox(stop_at="training_finished"))
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("cancelled", None)
    assert "weights.safetensors" in [artifact.name for artifact in outbox.of("artifact")]


def test_an_attempt_that_is_not_wanted_any_more_stops_without_an_outcome(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, KeepingOutbox(superseded_after=1))
    assert outcome is None
    assert len(outbox.of("step")) == 1


def test_minutes_end_training_after_the_step_in_which_they_are_up(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, stop={"kind": "minutes", "max_minutes": 1e-6}, evaluation=None)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert len(outbox.of("step")) == 1


def test_a_solver_that_needs_too_many_steps_ends_the_run_with_place_and_advice(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, solver={"kind": "adaptive", "rtol": 1e-6, "atol": 1e-6, "max_steps": 1})
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", "solver_stuck")
    assert "raise max_steps" in outcome.message
    data = outcome.data
    assert (data["solver_reason"], data["step"], data["phase"], data["rank"]) == ("max_steps", 1, "forward", 0)
    assert data["dt"] > 0


def test_a_rate_that_is_far_too_high_ends_as_diverged_with_the_step_and_advice(tmp_path: Path) -> None:
    outcome, outbox = run(
        tmp_path,
        optimizer={"kind": "sgd", "learning_rate": 100.0, "clip_norm": None},
        solver={"kind": "fixed", "method": "euler", "steps": 2},
        flow={"kind": "cnf", "field": {"hidden": [8], "activation": "softplus"}},
        stop={"kind": "steps", "max_steps": 500},
    )
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", "diverged")
    assert outcome.data["step"] == len(outbox.of("step")) + 1
    assert "learning_rate" in outcome.data["advice"]


def test_data_that_cannot_be_trained_on_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    np.save(tmp_path / "few.npy", np.random.default_rng(0).standard_normal((100, 3)))
    outcome, _ = run(tmp_path, data={"kind": "file", "path": "few.npy", "batch_size": 81})
    assert outcome is not None
    assert (outcome.state, outcome.reason) == ("failed", "data_error")
    assert "batch_size 81 is larger than the 80 training rows" in outcome.message


@pytest.mark.parametrize("data", [{"path": "few.parquet"}, {"path": "few.parquet", "kind": "parquet_stream"}], ids=str)
def test_a_file_of_few_rows_is_trained_in_smaller_batches_and_the_run_says_so(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    rows = np.random.default_rng(0).standard_normal((50, 2))
    pd.DataFrame(rows, columns=["a", "b"]).to_parquet(tmp_path / "few.parquet")
    held_out = {"validation_rows": 5, "test_rows": 5} if "kind" in data else {}
    outcome, outbox = run(tmp_path / "jobs", data={"kind": "file"} | data | held_out)
    assert outcome.state == "succeeded", outcome
    assert outcome.result.batch_size == 40
    (event,) = [event for event in outbox.of("event") if event.name == "batch_reduced"]
    assert event.data == {"batch_size": 40, "batch_size_usual": 500, "training_rows": 40}
    assert "batches of 40 rows instead of 500" in event.message


def test_more_workers_than_training_rows_are_refused_before_they_are_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    np.save(tmp_path / "few.npy", np.random.default_rng(0).standard_normal((20, 2)))
    few = {"data": {"kind": "file", "path": "few.npy"}, "resources": {"workers": 17}}
    _, failure = read_data(order(tmp_path / "jobs", **few))
    assert failure is not None
    assert failure.reason == "data_error"
    assert "resources.workers 17 is more than the 16 training rows" in failure.message
    (finding,) = check_spec(JobSpec.model_validate(few), [str(tmp_path)], None).findings
    assert (finding.pointer, finding.detail) == ("/resources/workers", failure.message)


def test_what_looks_wrong_about_the_data_is_a_warning_before_there_is_a_job(tmp_path: Path) -> None:
    np.save(tmp_path / "classes.npy", np.eye(3)[np.random.default_rng(0).integers(0, 3, 60)])
    spec = {"data": {"kind": "file", "path": "classes.npy"}, "flow": {"field": {"hidden": [4]}}}
    (finding,) = check_spec(JobSpec.model_validate(spec), [str(tmp_path)], None).findings
    assert (finding.pointer, finding.severity) == ("/data", "warning")
    assert finding.detail.startswith("classes.npy: linearly dependent columns: 'x0', 'x1', 'x2'")


def test_a_measured_peak_above_the_budget_is_one_event_with_the_numbers(tmp_path: Path) -> None:
    _, outbox = run(tmp_path, resources={"kind": "cpu", "memory_budget": "2MiB"}, evaluation=None)
    if outbox.of("memory")[0].host_peak_bytes is None:
        pytest.skip("this kernel gives no host peaks")
    (event,) = [event for event in outbox.of("event") if event.name == "memory_budget_exceeded"]
    assert event.data["memory_budget_bytes"] == 2 * 2**20
    assert event.data["peak_bytes"] > event.data["memory_budget_bytes"]


def test_a_worker_delivers_all_that_it_reports(ingest: IngestServer, tmp_path: Path, spool_dir: Path) -> None:
    ingest.faults.extend([503, "drop"])
    outcome = run_worker(ingest.order(SMALL, str(tmp_path)), TOKEN)
    assert outcome is not None
    assert outcome.state == "succeeded"
    records = ingest.records["rank-0"]
    assert [r["step"] for r in records if r["kind"] == "step" and "loss" in r["metrics"]] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["kind"] == "closed"
    assert [r["kind"] for r in records].count("memory") == 6 * 3 + 2 + 1
    assert not any(spool_dir.iterdir())


def test_a_worker_told_to_cancel_by_the_api_stops(ingest: IngestServer, tmp_path: Path) -> None:
    ingest.stop_wish = StopReason.CANCEL
    outcome = run_worker(ingest.order(SMALL | {"stop": {"kind": "minutes", "max_minutes": 5}}, str(tmp_path)), TOKEN)
    assert outcome is not None
    assert outcome.state == "cancelled"


def test_a_worker_whose_records_are_refused_raises(ingest: IngestServer, tmp_path: Path) -> None:
    ingest.always = 422
    with pytest.raises(TelemetryError, match="answered 422"):
        run_worker(ingest.order(SMALL | {"stop": {"kind": "minutes", "max_minutes": 5}}, str(tmp_path)), TOKEN)


def test_weights_depend_on_the_seed_alone() -> None:
    spec = JobSpec.model_validate(SMALL)
    torch.manual_seed(1)
    first = build_flow(spec, 2).state_dict()
    state = torch.random.get_rng_state()
    second = build_flow(spec, 2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())
