"""What changes with the step, and what is decided by validations."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symadj.service.contract.spec import JobSpec
from symadj.workers.model.build import build_flow
from symadj.workers.training.averaging import WeightAverage
from symadj.workers.training.schedules import learning_rate, regulariser_weights
from symadj.workers.validation import Validation, stalls
from tests.workers.runs import SMALL


def spec_of(max_steps: int = 104, **changes: Any) -> JobSpec:
    return JobSpec.model_validate(SMALL | {"stop": {"kind": "steps", "max_steps": max_steps}} | changes)


def adam(rate: float = 1.0, **schedule: Any) -> dict[str, Any]:
    return {"kind": "adam", "learning_rate": rate, "schedule": schedule}


def rates(spec: JobSpec, steps: range) -> list[float]:
    return [learning_rate(spec, step, []) for step in steps]


def test_the_rate_warms_up_and_decays_as_a_cosine_to_its_floor() -> None:
    spec = spec_of(optimizer=adam(kind="cosine", warmup_steps=4, final_fraction=0.1))
    course = rates(spec, range(1, 105))
    assert course[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert course[4 + 50] == pytest.approx(0.55)
    assert 0.1 < course[-1] < 0.101, "the floor is where the next step would be: no step is made at rate 0"
    assert course[4:] == sorted(course[4:], reverse=True)


def test_pre_training_and_likelihood_have_a_schedule_each() -> None:
    spec = spec_of(
        optimizer=adam(kind="cosine", warmup_steps=1),
        pretraining={"steps": 4, "learning_rate": 3.0, "schedule": {"kind": "cosine"}},
    )
    course = rates(spec, range(1, 105))
    assert course[:4] == pytest.approx([3.0 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])
    assert course[4:6] == pytest.approx([0.5, 1.0]), "the warm-up of the likelihood's own schedule"
    assert 0 < course[-1] < 1e-3
    assert rates(spec_of(pretraining={"steps": 4}, optimizer=adam(2.0)), range(1, 9)) == [2.0] * 8


def test_a_plateau_cuts_the_rate_down_to_its_floor_and_counts_the_likelihoods_validations_only() -> None:
    spec = spec_of(
        optimizer=adam(kind="plateau", factor=0.5, patience=2, final_fraction=0.2, min_improvement=0.1),
        pretraining={"steps": 10},
    )
    nlls = [9.0, 9.0, 9.0, 5.0, 4.95, 4.94, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    validations = [Validation(8 + i, nll) for i, nll in enumerate(nlls)]
    seen = [learning_rate(spec, validations[n - 1].step + 1, validations[:n]) for n in range(3, len(nlls) + 1)]
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


finite = st.floats(-1e6, 1e6)


@given(st.lists(st.one_of(finite, st.just(math.nan))), st.integers(1, 5), st.floats(0, 10))
def test_stalls_grow_with_the_history_and_never_faster_than_patience_allows(
    nlls: list[float], patience: int, min_improvement: float
) -> None:
    counts = [stalls(nlls[:n], patience, min_improvement) for n in range(len(nlls) + 1)]
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(counts))
    assert counts[-1] <= len(nlls) // patience


@given(st.lists(finite, unique=True), st.integers(1, 5))
def test_nothing_stalls_while_every_validation_is_better(nlls: list[float], patience: int) -> None:
    assert stalls(sorted(nlls, reverse=True), patience, 0.0) == 0
    assert stalls([1.0] * (2 * patience + 1), patience, 0.0) == 2


schedules = st.one_of(
    st.fixed_dictionaries({"kind": st.just("constant"), "warmup_steps": st.integers(0, 40)}),
    st.fixed_dictionaries(
        {"kind": st.just("cosine"), "warmup_steps": st.integers(0, 40), "final_fraction": st.floats(0, 1)}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("plateau"), "warmup_steps": st.integers(0, 40), "final_fraction": st.floats(0, 1)}
    ),
)


@given(schedules, st.integers(0, 50), st.integers(1, 100), st.lists(st.tuples(st.integers(1, 100), finite)))
def test_no_step_has_a_rate_of_zero_or_above_the_full_one(
    schedule: dict[str, Any], pretraining: int, step: int, validations: list[tuple[int, float]]
) -> None:
    spec = spec_of(
        100,
        optimizer={"kind": "adam", "learning_rate": 2.0, "schedule": schedule},
        pretraining={"steps": pretraining} if pretraining else None,
    )
    assert 0 < learning_rate(spec, step, [Validation(*v) for v in validations]) <= 2.0


def test_weights_of_regularisers_run_along_their_lines() -> None:
    ramp = {"kind": "linear", "from_step": 10, "to_step": 20}
    decay = {"kind": "linear", "to_step": 10, "start": 1.0, "end": 0.5}
    spec = spec_of(
        regularisers=[
            {"kind": "kinetic", "weight": 2.0, "schedule": ramp},
            {"kind": "jacobian_frobenius", "weight": 4.0, "schedule": decay},
        ]
    )
    assert regulariser_weights(spec, 1) == {"kinetic": 0.0, "jacobian_frobenius": pytest.approx(3.8)}
    assert regulariser_weights(spec, 15) == {"kinetic": pytest.approx(1.0), "jacobian_frobenius": 2.0}
    assert regulariser_weights(spec, 99) == {"kinetic": 2.0, "jacobian_frobenius": 2.0}


def test_the_average_forgets_the_first_weights_soon_and_then_moves_with_the_decay() -> None:
    flow = build_flow(spec_of(), 2)
    average = WeightAverage(flow, decay=0.9)
    with torch.no_grad():
        for parameter in average.flow.parameters():
            parameter.fill_(1.0)
        for parameter in flow.parameters():
            parameter.zero_()
    expected = 1.0
    for step in range(1, 121):
        average.update(flow, step)
        expected *= min(0.9, (1 + step) / (10 + step))
    assert expected < 1e-6
    for parameter in average.flow.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
