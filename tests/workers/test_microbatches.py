"""A rank's rows computed a part at a time: the same step, within less memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from symadj.workers import attempt
from symadj.workers.attempt import AttemptRun
from symadj_core.flows import MLPField
from symadj_core.gradients import GRADIENTS
from tests.workers.runs import KeepingOutbox, held_bytes, order, rank_run, run

# Equal steps, whatever the rows; in float64, so that only rounding is left.
EXACTLY: dict[str, Any] = {
    "flow": {"kind": "cnf", "dtype": "float64", "field": {"hidden": [8]}},
    "solver": {"kind": "fixed", "method": "rk4", "steps": 3},
    "evaluation": None,
}


def weights(folder: Path) -> torch.Tensor:
    """Return all weights that a run has ended with."""
    (stored,) = folder.rglob("artifacts/*/weights.safetensors")
    tensors = safetensors.torch.load_file(stored)
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, {"regularisers": [{"kind": "kinetic", "weight": 0.1}]}) for kind in GRADIENTS),
        ("symplectic", {}),
        ("symplectic", {"pretraining": {"steps": 4, "optimal_transport": True}}),
    ],
    ids=[*(f"regularised, {kind}" for kind in GRADIENTS), "likelihood", "flow matching"],
)
def test_microbatches_make_the_step_of_the_whole_batch(kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    ended = []
    for rows in (None, 7):
        folder = tmp_path / str(rows)
        folder.mkdir()
        resources = {"kind": "cpu", "microbatch_size": rows}
        outcome, outbox = run(folder, **EXACTLY | more, gradient={"kind": kind}, resources=resources)
        assert outcome is not None
        assert outcome.state == "succeeded"
        ended.append((weights(folder), outbox.series("loss"), outbox.series("nfe_backward")))
    (whole, losses, uses), (split, of_split, uses_of_split) = ended
    torch.testing.assert_close(split, whole, rtol=1e-9, atol=1e-12)
    assert of_split == pytest.approx(losses, rel=1e-12)
    assert uses_of_split == pytest.approx(uses)


def greedy_above(rows: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a field that gets more than so many rows find no memory; return a list that its numbers of rows go to."""
    forward, seen = MLPField.forward, []

    def greedy(self: MLPField, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(y))
        if len(y) > rows:
            torch.empty(2**60, dtype=torch.uint8)
        return forward(self, t, y)

    monkeypatch.setattr(MLPField, "forward", greedy)
    return seen


def halvings(outbox: KeepingOutbox) -> list[dict[str, Any]]:
    """Return the data of the events that tell of them."""
    return [event.data for event in outbox.of("event") if event.name == "microbatch_halved"]


def test_auto_halves_when_memory_runs_out_and_loses_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    _, whole = run(tmp_path / "whole", **EXACTLY)
    greedy_above(10, monkeypatch)
    (tmp_path / "split").mkdir()
    outcome, outbox = run(tmp_path / "split", **EXACTLY, resources={"kind": "cpu", "microbatch_size": "auto"})
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert outbox.series("loss") == pytest.approx(whole.series("loss"), rel=1e-10)
    told = halvings(outbox)
    assert [(data["step"], data["cause"]) for data in told] == [(1, "out_of_memory")] * len(told)
    assert [data["microbatch_size"] for data in told] == [16, 8]


def test_a_row_that_does_not_fit_alone_ends_the_job_as_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = greedy_above(0, monkeypatch)
    outcome, outbox = run(tmp_path, **EXACTLY, resources={"kind": "cpu", "microbatch_size": "auto"})
    assert outcome is not None
    assert outcome.reason == "out_of_memory"
    assert seen[-1] == halvings(outbox)[-1]["microbatch_size"] == 1


def test_an_attempt_after_two_that_ran_out_of_memory_takes_a_quarter_of_the_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = greedy_above(1000, monkeypatch)
    told = order(tmp_path, **EXACTLY).model_copy(update={"microbatch_halvings": 2})
    outcome = AttemptRun(rank_run(told, KeepingOutbox())).run()
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert max(seen) == 8


# Some 100 MB of graph for the whole batch.
LARGE: dict[str, Any] = EXACTLY | {
    "data": {"kind": "toy", "name": "moons", "rows": 8000, "batch_size": 4000},
    "flow": {"kind": "cnf", "field": {"hidden": [128]}},
    "gradient": {"kind": "backprop"},
    "stop": {"kind": "steps", "max_steps": 4},
}


def budget(above: int) -> str:
    """Return what this process holds and so many bytes, as a size."""
    return f"{held_bytes() + above}B"


def test_auto_halves_after_a_step_above_the_budget_until_steps_fit(tmp_path: Path) -> None:
    _, free = run(tmp_path, **LARGE)
    if free.of("memory")[0].host_peak_bytes is None:
        pytest.skip("this kernel gives no host peaks")
    room = 60 * 2**20
    assert max(record.host_peak_bytes - record.host_idle_bytes for record in free.of("memory")) > room
    resources = {"kind": "cpu", "memory_budget": budget(room), "microbatch_size": "auto", "over_budget": "fail"}
    outcome, outbox = run(tmp_path, **LARGE, resources=resources)
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert {data["cause"] for data in halvings(outbox)} == {"memory_budget"}
    last = [record for record in outbox.of("memory") if record.step == 4]
    assert max(record.host_peak_bytes - record.host_idle_bytes for record in last) < room


def test_a_job_may_be_told_to_fail_above_its_budget_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a plan, it would fail before its first step.
    monkeypatch.setattr(attempt, "make_plan", lambda *_, **__: 1 / 0)
    resources = {"kind": "cpu", "memory_budget": "2MiB", "over_budget": "fail"}
    outcome, outbox = run(tmp_path, resources=resources, gradient={"kind": "symplectic"}, evaluation=None)
    if outcome is not None and outcome.state == "succeeded" and outbox.of("memory")[0].host_peak_bytes is None:
        pytest.skip("this kernel gives no host peaks")
    assert outcome is not None
    assert outcome.reason == "out_of_memory"
    assert outcome.data["memory_budget_bytes"] == 2 * 2**20
    assert outcome.data["peak_bytes"] > 2 * 2**20
    assert outcome.data["step"] == 1
    assert json.dumps(outcome.data["advice"])
