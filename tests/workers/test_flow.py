"""From a spec to its flow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.spec.flow import VectorField
from symadj.service.contract.spec.section import kinds_of
from symadj.service.contract.spec.solver import Keep, NamedGradient
from symadj.workers.data import DataError
from symadj.workers.model.build import build_flow, evaluation_flow, validation_flow
from symadj_core.flows import FIELDS, Exact, Hutchinson, HutchPlusPlus, piece_rows
from symadj_core.solvers.controller import EvenGrid, IController


def spec(flow: dict[str, Any], **sections: Any) -> JobSpec:
    data = {"kind": "builtin", "name": "flow_cytometry"}
    return JobSpec.model_validate({"data": data, "flow": {"kind": "cnf", **flow}, **sections})


OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [8, 8], "time": "fourier", "activation": "silu"},
    "residual": {"width": 8, "depth": 1, "activation": "softplus"},
    "potential": {"width": 8, "depth": 3, "rank": 2},
}


@pytest.mark.parametrize("kind", sorted(kinds_of(VectorField).keys() - {"plugin"}))  # a package's own: test_plugins
@pytest.mark.parametrize("zero_init", [False, True])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_every_field_of_the_spec_is_built_and_trains(kind: str, zero_init: bool, context_dim: int) -> None:
    field = {"kind": kind} | OPTIONS.get(kind, {})
    order = spec(
        {"field": field | {"zero_init": zero_init}, "learn_end_time": True, "field_dtype": "bfloat16"},
        solver={"kind": "fixed", "steps": 2},
    )
    flow, x = build_flow(order, 3, context_dim), torch.randn(8, 3)
    context = torch.randn(8, 2) if context_dim else None
    for block in flow.stack():
        assert type(block.field) is FIELDS[kind]
        assert {name: getattr(block.field, name) for name in ("dim", "context_dim")} == {
            "dim": 3,
            "context_dim": context_dim,
        }
    torch.testing.assert_close(flow.to_base(x, context), x) if zero_init else None
    flow(x, seed=0, context=context).mean().backward()
    assert all(p.grad is not None for p in flow.parameters())


KEPT: dict[str, dict[str, Any]] = {"binomial": {"states": 3}, "budget": {"size": "1MiB"}}


@pytest.mark.parametrize(
    "gradient",
    [
        *({"kind": kind} for kind in kinds_of(NamedGradient)),
        *({"kind": "symplectic", "keep": {"kind": kind} | KEPT.get(kind, {})} for kind in kinds_of(Keep)),
        {"kind": "adjoint", "rtol": 1e-3, "atol": 1e-4},
    ],
    ids=str,
)
def test_every_gradient_of_the_spec_is_built_with_its_options_and_trains(gradient: dict[str, Any]) -> None:
    flow = build_flow(spec({"field": {"hidden": [8]}}, gradient=gradient), 3)
    for block in flow.stack():
        method = block.settings.gradient
        assert method.name == gradient["kind"]
        if "keep" in gradient:
            keep = gradient["keep"]
            assert method.keep.name == keep["kind"]  # type: ignore[attr-defined]
            assert getattr(method.keep, "states", 3) == 3  # type: ignore[attr-defined]
            assert getattr(method.keep, "size", 2**20) == 2**20  # type: ignore[attr-defined]
        for name in ("rtol", "atol"):
            assert getattr(method, name, None) == gradient.get(name)
    flow(torch.randn(8, 3), seed=0).mean().backward()
    assert all(p.grad is not None for p in flow.parameters())


def test_the_weights_are_a_function_of_the_seed() -> None:
    first, again = (build_flow(spec({"field": {"kind": "residual"}}, seed=3), 2) for _ in range(2))
    other = build_flow(spec({"field": {"kind": "residual"}}, seed=4), 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_a_fixed_solver_takes_its_steps_over_an_end_time_that_moves() -> None:
    solver = {"kind": "fixed", "method": "rk4", "steps": 5}
    order = spec({"blocks": 1, "learn_end_time": True, "end_time": 0.7}, solver=solver)
    flow, x = build_flow(order, 2), torch.randn(4, 2)
    (block,) = flow.stack()
    for end_time in (0.7, 0.93, 1.3):
        with torch.no_grad():
            block.end_time.fill_(end_time)  # type: ignore[union-attr]
        flow(x, seed=0).sum().backward()
        assert flow.last_stats.accepted == 5
    tested, how = evaluation_flow(flow, order, Evaluation())
    tested(x)
    assert how.steps == tested.last_stats.accepted == 16
    assert EvenGrid(4)([1.0, 0.0]) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_field_in_bfloat16_is_tested_in_the_precision_of_its_weights() -> None:
    order = spec({"field_dtype": "bfloat16"})
    flow = build_flow(order, 2)
    tested, how = evaluation_flow(flow, order, Evaluation())
    assert how.dtype == "float64"
    assert {block.settings.field_dtype for block in flow.stack()} == {torch.bfloat16}
    assert {block.settings.field_dtype for block in tested.stack()} == {None}
    assert all(isinstance(block.settings.divergence, Exact) for block in tested.stack())


@pytest.mark.parametrize(
    ("flow", "dim", "rows"),
    [
        ({"field": {"hidden": [8, 8]}}, 784, 500),
        ({"field": {"hidden": [8, 8, 8]}}, 20, 500),
        ({"field": {"hidden": [8, 8, 8]}}, 784, 12),
        ({"field": {"kind": "potential"}}, 784, 12),
        ({"field": {"hidden": [8, 8]}, "field_dtype": "bfloat16"}, 784, 12),
    ],
)
def test_rows_are_scored_in_pieces_as_large_as_their_trace_allows(flow: dict[str, Any], dim: int, rows: int) -> None:
    exact = build_flow(spec(flow), dim).with_settings(divergence="exact")
    assert piece_rows(exact, 500) == rows
    if "hidden" not in flow["field"] or dim > 20:
        assert piece_rows(exact.with_settings(divergence="hutchinson"), 500) == 500


def test_hutch_plus_plus_with_more_probes_than_columns_is_refused_when_the_flow_is_built() -> None:
    order = spec({"divergence": {"kind": "hutchpp", "probes": 6}})
    assert all(block.settings.divergence == HutchPlusPlus(probes=6) for block in build_flow(order, 7).stack())
    with pytest.raises(DataError, match="must be below the dimension 6"):
        build_flow(order, 6)


@pytest.mark.parametrize(
    ("hidden", "dim", "divergence"),
    [([4, 4], 100, "exact"), ([4, 4, 4], 32, "exact"), ([4, 4, 4], 100, "hutchinson"), ([4], 300, "exact")],
)
def test_the_trace_is_exact_in_validation_where_that_is_cheap(hidden: list[int], dim: int, divergence: str) -> None:
    order = spec({"field": {"hidden": hidden}})
    validated, name = validation_flow(build_flow(order, dim), order)
    assert name == divergence
    assert {block.settings.divergence.name for block in validated.stack()} == {divergence}


def test_images_are_scored_in_pieces_that_need_no_more_than_training_does() -> None:
    order = JobSpec.model_validate(
        {"data": {"kind": "builtin", "name": "digits"}, "flow": {"kind": "multiscale", "hidden_channels": [4]}}
    )
    flow = build_flow(order, 64, shape=(1, 8, 8))
    assert piece_rows(flow.with_settings(divergence="exact"), 200) == 3
    assert piece_rows(flow.with_settings(divergence=Hutchinson(probes=4)), 200) == 50


def test_a_tighter_solve_may_take_as_many_more_steps_as_it_needs() -> None:
    order = spec({}, solver={"kind": "adaptive", "method": "adaptive_heun", "rtol": 1e-2, "max_steps": 40})
    flow, _ = evaluation_flow(build_flow(order, 2), order, Evaluation())
    controller = flow.stack()[0].settings.controller
    # The error of a step of Heun's is of order 2: a hundredth of it takes ten times as many steps.
    assert isinstance(controller, IController)
    assert (controller.max_steps, controller.rtol) == (400, pytest.approx(1e-4))
