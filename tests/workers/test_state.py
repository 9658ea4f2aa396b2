"""The state of a training: averages, best weights, and going on from a saved one."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.training import AdamOptimizer, AdamWOptimizer, Optimizer, SgdOptimizer
from symadj.service.contract.states import StopReason
from symadj.workers.data import prepare
from symadj.workers.distributed.ranks import AttemptFailedError
from symadj.workers.model.build import build_flow
from symadj.workers.training.loop import Ending, train
from symadj.workers.training.optimisers import build_optimizer
from symadj.workers.training.schedules import early_stop_nlls
from symadj.workers.training.state import TrainingState
from symadj.workers.validation import Validation
from tests.workers.loading import load_table
from tests.workers.runs import SMALL, KeepingOutbox, order, rank_run, run

BUSY: dict[str, Any] = {
    "stop": {"kind": "steps", "max_steps": 12},
    "optimizer": {
        "kind": "adam",
        "learning_rate": 1e-2,
        "schedule": {"kind": "plateau", "patience": 1, "min_improvement": 0.1},
    },
    "pretraining": {"steps": 4},
    "regularisers": [{"kind": "kinetic", "weight": 0.1, "schedule": {"kind": "linear", "to_step": 10}}],
    "ema": {"decay": 0.9},
    "early_stop": {"patience": 50},
    "evaluation": {"validate_every_steps": 2, "validation_rows": 20},
}


def spec_of(**changes: Any) -> JobSpec:
    return JobSpec.model_validate(SMALL | changes)


def state_of(spec: JobSpec) -> TrainingState:
    return TrainingState(spec, build_flow(spec, 2))


def go_on(spec: JobSpec, state: TrainingState, stop_after: int | None = None) -> tuple[Ending | None, KeepingOutbox]:
    """Train to the end, or until it is told to stop; then there is no ending."""
    outbox = KeepingOutbox(stop_after=stop_after)
    data = prepare(spec.data, load_table(spec.data))
    try:
        return train(rank_run(order("unused").model_copy(update={"spec": spec}), outbox), state, data), outbox
    except AttemptFailedError as error:
        if error.failure.stop is not StopReason.CANCEL:
            raise
        return None, outbox


def saved_and_loaded(state: TrainingState) -> dict[str, Any]:
    stream = io.BytesIO()
    torch.save(state.state_dict(), stream)
    stream.seek(0)
    loaded: dict[str, Any] = torch.load(stream, weights_only=True)
    return loaded


def weights(state: TrainingState) -> list[torch.Tensor]:
    return [*state.flow.state_dict().values(), *state.evaluated.state_dict().values()]


def series(*outboxes: KeepingOutbox) -> list[dict[str, float]]:
    """All metrics of each step but the clocks'; later attempts' come last."""
    clocks = {"step_seconds", "examples_per_second"}
    by_step: dict[int, dict[str, float]] = {}
    for record in [record for outbox in outboxes for record in outbox.of("step")]:
        by_step.setdefault(record.step, {}).update({k: v for k, v in record.metrics.items() if k not in clocks})
    return [by_step[step] for step in sorted(by_step)]


@pytest.mark.parametrize("count_pretraining", [False, True])
@pytest.mark.parametrize("interrupted_after", [1, 4, 5, 8])
def test_a_training_that_goes_on_from_a_saved_state_makes_the_bits_of_one_never_interrupted(
    interrupted_after: int, count_pretraining: bool
) -> None:
    spec = spec_of(**BUSY | {"early_stop": {"patience": 50, "count_pretraining": count_pretraining}})
    whole = state_of(spec)
    _, expected = go_on(spec, whole)

    first = state_of(spec)
    ending, before = go_on(spec, first, stop_after=interrupted_after)
    assert (ending, first.step) == (None, interrupted_after)
    second = state_of(spec)
    second.load_state_dict(saved_and_loaded(first))
    ending, after = go_on(spec, second)
    assert ending == "finished"

    assert series(before, after) == series(expected)
    assert len({record["learning_rate"] for record in series(expected)}) > 1, "the plateau was seen"
    assert whole.restore_best() == second.restore_best()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))
    assert second.seconds > first.seconds > 0
    ours, theirs = second.history.course(), whole.history.course()
    np.testing.assert_array_equal(ours.steps, theirs.steps)
    np.testing.assert_array_equal(ours.nll, theirs.nll)


def test_a_validation_that_is_not_a_number_keeps_no_later_one_from_being_the_best() -> None:
    state = state_of(spec_of(early_stop={"patience": 50}))
    told = [state.validated(Validation(step, nll)) for step, nll in enumerate([float("nan"), 3.0, 4.0, 2.0], start=1)]
    assert told == [False, True, False, True]


@pytest.mark.parametrize("average", [None, {"decay": 0.5}])
def test_the_likelihood_goes_on_from_the_best_weights_of_pre_training_where_these_count(
    average: dict[str, float] | None,
) -> None:
    spec = spec_of(pretraining={"steps": 3}, ema=average, early_stop={"count_pretraining": True})
    state, kept = state_of(spec), []
    for step, nll in enumerate([3.0, 2.0, 5.0], start=1):
        with torch.no_grad():
            for parameter in state.flow.parameters():
                parameter.add_(1.0)
        state.end_step(step)
        state.validated(Validation(step, nll))
        kept.append([weight.clone() for weight in weights(state)])
    assert not all(map(torch.equal, weights(state), kept[1]))
    state.begin_step(4)
    assert all(map(torch.equal, weights(state), kept[1]))
    state.end_step(4)
    assert not state.validated(Validation(4, 2.5)), "the best of pre-training is better"
    assert state.restore_best() == 2


def test_early_stopping_waits_for_what_is_better_than_the_best_of_a_pre_training_that_counts() -> None:
    counts = spec_of(pretraining={"steps": 3}, early_stop={"count_pretraining": True})
    alone = spec_of(pretraining={"steps": 3}, early_stop={})
    validations = [Validation(1, 2.0), Validation(2, math.nan), Validation(3, 3.0)]
    assert early_stop_nlls(counts, validations) == early_stop_nlls(alone, validations) == []
    validations.append(Validation(4, 2.5))
    assert early_stop_nlls(counts, validations) == [2.0, 2.5]
    assert early_stop_nlls(alone, validations) == [2.5]


def test_a_training_stops_early_and_goes_back_to_its_best_weights(tmp_path: Path) -> None:
    outcome, outbox = run(
        tmp_path,
        stop={"kind": "steps", "max_steps": 200},
        optimizer={"kind": "sgd", "learning_rate": 0.3, "clip_norm": None},
        early_stop={"patience": 3},
        evaluation={"validate_every_steps": 2, "mixture_components": 0, "plots": False},
    )
    assert outcome is not None
    result, validations = outcome.result, outbox.series("validation_nll")
    assert result.stopped_early
    assert result.steps == len(outbox.series("loss")) < 200
    best = min(range(len(validations)), key=lambda place: validations[place])
    assert len(validations) == best + 1 + 3
    assert result.weights_of_step == 2 * (best + 1)
    assert result.validation_nll == validations[best]


def test_validation_evaluation_and_saved_weights_are_of_the_average_and_both_are_stored(tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain")
    averaged, outbox = run(tmp_path / "averaged", ema={"decay": 0.99})
    assert plain is not None
    assert averaged is not None
    folder = tmp_path / "averaged" / "job-1" / "artifacts" / "1"
    assert "weights-not-averaged.safetensors" in [artifact.name for artifact in outbox.of("artifact")]
    stored = [
        safetensors.torch.load_file(path)
        for path in (
            folder / "weights.safetensors",
            folder / "weights-not-averaged.safetensors",
            tmp_path / "plain" / "job-1" / "artifacts" / "1" / "weights.safetensors",
        )
    ]
    average, last, unchanged = stored
    assert all(torch.equal(last[name], unchanged[name]) for name in last), "the average changes nothing in training"
    assert any(not torch.equal(average[name], last[name]) for name in last)
    assert averaged.result.test_nll != plain.result.test_nll
    assert averaged.result.validation_nll != plain.result.validation_nll
    spec = JobSpec.model_validate(json.loads((folder / "config.json").read_text())["spec"])
    flow = build_flow(spec, 2)
    flow.load_state_dict(average)
    data = prepare(spec.data, load_table(spec.data))
    rows = torch.from_numpy(data.test.rows).float()
    score = -flow.with_settings(divergence="exact", rtol=1e-4, atol=1e-5).log_prob(rows).detach().mean().item()
    assert score == pytest.approx(averaged.result.test_nll, abs=1e-4)


def four_steps(make: Callable[[torch.nn.Parameter], torch.optim.Optimizer]) -> tuple[list[float], str]:
    """Return a weight after four steps, and what a checkpoint has of the optimiser."""
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = make(weight)
    for _ in range(4):
        optimizer.zero_grad()
        (weight**3).sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return weight.tolist(), str(optimizer.state_dict())


@pytest.mark.parametrize(
    ("spec", "kind", "options"),
    [
        (AdamOptimizer(), torch.optim.Adam, {"betas": (0.9, 0.999)}),
        (AdamWOptimizer(kind="adamw"), torch.optim.AdamW, {"betas": (0.9, 0.999), "weight_decay": 0.01}),
        (SgdOptimizer(kind="sgd"), torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_steps_and_stored_states_are_those_of_torchs_own_optimisers(
    spec: Optimizer, kind: Callable[..., torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    own = four_steps(lambda weight: build_optimizer(spec, [weight]))
    assert own == four_steps(lambda weight: kind([weight], lr=spec.learning_rate, **options, fused=True))
