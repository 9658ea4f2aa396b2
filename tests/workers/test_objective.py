"""What is minimised: penalties beside the likelihood, and flow matching before it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from symadj.workers.training import pairing
from symadj.workers.training.pairing import sample_pairs
from tests.workers.runs import KeepingOutbox, run

NONE: dict[str, Any] = {"evaluation": None}


def steps(count: int) -> dict[str, Any]:
    return {"stop": {"kind": "steps", "max_steps": count}}


def trained(outbox: KeepingOutbox) -> list[Any]:
    """The records of steps, without those of validations."""
    return [record for record in outbox.of("step") if "validation_nll" not in record.metrics]


def test_each_regulariser_is_a_metric_and_the_loss_is_the_weighted_sum(tmp_path: Path) -> None:
    outcome, outbox = run(
        tmp_path,
        regularisers=[
            {"kind": "kinetic", "weight": 0.5, "schedule": {"kind": "linear", "to_step": 4}},
            {"kind": "jacobian_frobenius", "weight": 0.1},
        ],
    )
    assert outcome is not None
    assert outcome.state == "succeeded"
    for record in trained(outbox):
        m = record.metrics
        penalty = 0.5 * min(record.step / 4, 1.0) * m["kinetic"] + 0.1 * m["jacobian_frobenius"]
        assert m["loss"] == pytest.approx(m["nll"] + penalty, rel=1e-5)
        assert m["kinetic"] > 0
        assert m["jacobian_frobenius"] > 0


def test_the_regularisers_of_a_potential_train(tmp_path: Path) -> None:
    outcome, outbox = run(
        tmp_path,
        flow={"kind": "cnf", "blocks": 1, "field": {"kind": "potential", "width": 8}},
        regularisers=[{"kind": "transport", "weight": 0.1}, {"kind": "hjb", "weight": 0.1}],
        **NONE,
    )
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert all(value >= 0 for name in ("transport", "hjb") for value in outbox.series(name))


def test_a_penalty_on_speed_makes_trajectories_shorter(tmp_path: Path) -> None:
    weights = (1e-6, 1.0)
    energies = [
        run(tmp_path, regularisers=[{"kind": "kinetic", "weight": weight}], **steps(40), **NONE)[1].series("kinetic")
        for weight in weights
    ]
    assert energies[1][-1] < 0.5 * energies[0][-1]


def test_pre_training_comes_first_with_metrics_of_its_own_in_one_series_of_steps(tmp_path: Path) -> None:
    outcome, outbox = run(tmp_path, pretraining={"steps": 4, "learning_rate": 3e-3})
    assert outcome is not None
    assert outcome.state == "succeeded"
    assert [record.step for record in trained(outbox)] == [1, 2, 3, 4, 5, 6]
    first, second = trained(outbox)[:4], trained(outbox)[4:]
    for record in first:
        assert "flow_matching_loss" in record.metrics
        assert not record.metrics.keys() & {"loss", "nfe_forward", "nfe_backward"}
        assert record.metrics["learning_rate"] == 3e-3
    for record in second:
        assert "flow_matching_loss" not in record.metrics
        assert record.metrics["nfe_forward"] > 0
        assert record.metrics["learning_rate"] == 1e-2
    validated = [record.step for record in outbox.of("step") if "validation_nll" in record.metrics]
    assert validated == [4, 6], "validations go on through both"
    assert len(outbox.of("memory")) == 6 * 3 + 2 + 1, "three phases a step, the validations, the evaluation"


def test_few_rows_are_given_the_steps_of_their_epochs_and_the_run_says_so(tmp_path: Path) -> None:
    asked = {"steps": 40, "max_epochs": 1}
    outcome, outbox = run(tmp_path, pretraining=asked, evaluation=None, **steps(42))  # ten batches of 32 are an epoch
    assert (outcome.result.pretraining_steps, outcome.result.steps) == (10, 12)
    assert len(outbox.series("flow_matching_loss")) == 10
    [event] = [event for event in outbox.of("event") if event.name == "pretraining_shortened"]
    said = {"steps": 10, "steps_asked": 40, "max_epochs": 1, "training_rows": 320, "max_steps": 12}
    assert event.data == said
    assert "10 steps of pre-training instead of 40" in event.message


def test_flow_matching_alone_already_lowers_the_nll(tmp_path: Path) -> None:
    _, outbox = run(
        tmp_path,
        data={"kind": "toy", "name": "moons", "rows": 2000, "batch_size": 128},
        flow={"kind": "cnf", "blocks": 1, "field": {"hidden": [32, 32]}},
        pretraining={"steps": 300},
        evaluation={"validate_every_steps": 300, "test": False, "mixture_components": 0, "plots": False},
        **steps(301),
    )
    of_a_standard_normal = math.log(2 * math.pi * math.e)
    assert outbox.series("validation_nll")[0] < of_a_standard_normal - 0.2


def test_the_same_spec_with_everything_in_it_gives_the_same_bits_twice(tmp_path: Path) -> None:
    everything: dict[str, Any] = {
        "pretraining": {"steps": 3},
        "regularisers": [{"kind": "kinetic", "weight": 0.1}],
        "ema": {"decay": 0.9},
        "early_stop": {"patience": 2},
        "optimizer": {"kind": "adam", "schedule": {"kind": "plateau", "patience": 1}},
        "evaluation": {"validate_every_steps": 1, "mixture_components": 2, "plots": False, "two_sample_rows": 40},
    }
    clocks = {"step_seconds", "examples_per_second", "train_seconds", "evaluate_seconds"}
    told = []
    for name in "ab":
        outcome, outbox = run(tmp_path / name, **everything)
        assert outcome is not None
        series = [{k: v for k, v in r.metrics.items() if k not in clocks} for r in outbox.of("step")]
        result = {k: v for k, v in outcome.result.stored().items() if k not in clocks}
        told.append((series, result, {a.name: a.sha256 for a in outbox.of("artifact") if "weights" in a.name}))
    assert told[0] == told[1]
    assert len(told[0][2]) == 2


def pairs(x: np.ndarray, step: int = 1, rank: int = 0, *, optimal: bool = True) -> tuple[np.ndarray, np.ndarray]:
    z, time = sample_pairs(torch.from_numpy(x), 0, step, rank, optimal_transport=optimal)
    return z.numpy(), time.numpy()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 1000))
def test_pairs_are_those_of_least_distance_and_the_same_samples_as_without(rows: int, dim: int, step: int) -> None:
    x = np.random.default_rng(step).standard_normal((rows, dim)) * 2 + 1
    z, time = pairs(x, step)
    plain, _ = pairs(x, step, optimal=False)
    assert sorted(map(tuple, z)) == sorted(map(tuple, plain))
    cost = np.trace(cdist(x, z, "sqeuclidean"))
    assert cost <= np.trace(cdist(x, plain, "sqeuclidean")) + 1e-9
    # No two pairs would be better off with each other's samples.
    swapped = cdist(x, z, "sqeuclidean")
    own = np.diag(swapped)
    assert (swapped + swapped.T >= own[:, None] + own[None, :] - 1e-9).all()
    np.testing.assert_array_equal(pairs(x, step)[0], z)
    assert ((time >= 0) & (time < 1)).all()
    assert sorted(np.floor(time * rows)) == list(range(rows)), "a time in each stratum"


def test_pairs_differ_from_step_to_step_and_from_rank_to_rank() -> None:
    x = np.zeros((50, 2))
    drawn = [pairs(x, step, rank)[0] for step, rank in ((1, 0), (2, 0), (1, 1))]
    assert not any(np.allclose(a, b) for a, b in ((drawn[0], drawn[1]), (drawn[0], drawn[2])))
    many = np.concatenate([pairs(x, step)[0] for step in range(1, 200)])
    assert np.abs(many.mean(0)).max() < 0.05
    assert np.abs(np.cov(many.T) - np.eye(2)).max() < 0.05


def test_every_context_is_met_with_samples_of_the_whole_base() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=400)
    x = torch.from_numpy(rng.standard_normal((400, 1)) + 4 * label[:, None])
    met, cost = [], []
    for step in range(1, 20):
        context = torch.from_numpy(np.eye(2)[label])
        z, _ = sample_pairs(x, 0, step, 0, optimal_transport=True, context=context)
        plain, _ = sample_pairs(x, 0, step, 0, optimal_transport=False)
        for kind in (0, 1):
            assert sorted(z[label == kind].tolist()) == sorted(plain[label == kind].tolist())
        met.append(float(z[label == 1].mean()))
        centred = x - 4 * torch.from_numpy(label)[:, None]
        cost.append(float((z - centred).square().mean() / (plain - centred).square().mean()))
    assert abs(np.mean(met)) < 0.05, "not those of the base that lie near the rows"
    assert max(cost) < 0.2, "but the nearest of them"
    unlike = torch.arange(400.0)[:, None]
    alone, _ = sample_pairs(x, 0, 1, 0, optimal_transport=True, context=unlike)
    assert torch.equal(alone, sample_pairs(x, 0, 1, 0, optimal_transport=False)[0])


def test_rows_of_near_contexts_exchange_samples_where_a_ratio_allows_it() -> None:
    rng = np.random.default_rng(0)
    angle = rng.random((128, 1))
    x = torch.from_numpy(4 * angle + 0.5 * rng.standard_normal((128, 1)))
    context = torch.from_numpy(angle)
    moved, bias, cost = {}, {}, {}
    for ratio in (None, 1e-3, 1e-2, 1.0):
        met, apart, distance = [], [], []
        for step in range(1, 20):
            z, _ = sample_pairs(x, 0, step, 0, optimal_transport=True, context=context, context_ratio=ratio)
            plain = sample_pairs(x, 0, step, 0, optimal_transport=False)[0]
            assert sorted(z.ravel().tolist()) == sorted(plain.ravel().tolist()), "each sample once"
            owner = {float(value): float(of) for value, of in zip(plain, context, strict=True)}
            apart.append(np.mean([abs(owner[float(value)] - float(of)) for value, of in zip(z, context, strict=True)]))
            met.append(float(z[context > 0.5].mean()))
            distance.append(float((z - x).square().mean()))
        moved[ratio], bias[ratio], cost[ratio] = np.mean(apart), np.mean(met), np.mean(distance)
    assert moved[None] == 0 < moved[1e-3] < moved[1e-2] < moved[1.0]
    assert cost[None] > cost[1e-3] > cost[1e-2] > cost[1.0]
    assert abs(bias[1e-2]) < 0.2 < bias[1.0], "a context still meets nearly the whole base, not only what is near"


def test_rows_of_few_kinds_exchange_samples_within_their_kind_whatever_the_ratio() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=128)
    x = torch.from_numpy(rng.standard_normal((128, 1)) + 4 * label[:, None])
    context = torch.from_numpy(np.eye(2)[label])
    z, _ = sample_pairs(x, 0, 1, 0, optimal_transport=True, context=context, context_ratio=0.01)
    within, _ = sample_pairs(x, 0, 1, 0, optimal_transport=True, context=context)
    np.testing.assert_array_equal(z, within)


def test_more_rows_than_one_plan_holds_are_paired_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "_LARGEST_PLAN", 10)
    x = np.random.default_rng(0).standard_normal((25, 2))
    z, _ = pairs(x)
    plain, _ = pairs(x, optimal=False)
    for part in (slice(0, 9), slice(9, 17), slice(17, 25)):
        assert sorted(map(tuple, z[part])) == sorted(map(tuple, plain[part]))
