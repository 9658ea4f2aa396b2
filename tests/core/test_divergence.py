"""Estimates of the divergence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from symadj_core import IController
from symadj_core.flows import Block, Exact, Flow, Hutchinson, HutchPlusPlus, MLPField, ProbeKey, ResidualField
from symadj_core.flows.integrands import divergence
from tests.core.systems import EXACT_GRADIENTS, gradient_of, normal, relative_error

DIM = 7
TIME = torch.tensor(0.3, dtype=torch.float64)


def perceptron() -> MLPField:
    torch.manual_seed(0)
    return MLPField(DIM, (12, 9)).double()


class FirstColumn(torch.nn.Module):
    """A field of one column too few."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y[:, :1].sin()


def estimates(kind: divergence.Divergence, field: Any, rows: int) -> Tensor:
    """Estimates of one sample's divergence, by the probes of `rows` samples."""
    y = normal(1, DIM, seed=1).expand(rows, DIM)
    return kind.rates(field, ProbeKey(4), torch.arange(rows), y)(TIME, y)[1].detach()


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("probes", [3, 6])
def test_hutch_plus_plus_is_unbiased(distribution: Any, probes: int) -> None:
    field = perceptron()
    exact = estimates(Exact(), field, 1)[0]
    found = estimates(HutchPlusPlus(distribution, probes), field, 20_000)
    assert abs(float(found.mean() - exact)) < 5 * float(found.std()) / len(found) ** 0.5
    assert float(found.std()) > 0


def test_the_gradient_of_hutch_plus_plus_is_unbiased() -> None:
    field, rows = perceptron(), 20_000
    y = normal(1, DIM, seed=1)
    weight = field.layers[1].linear.weight
    (expected,) = torch.autograd.grad(Exact().rates(field, ProbeKey(0), torch.arange(1), y)(TIME, y)[1].sum(), weight)
    parts = []
    for chunk in torch.arange(rows).chunk(40):
        many = y.expand(len(chunk), DIM)
        trace = HutchPlusPlus().rates(field, ProbeKey(4), chunk, many)(TIME, many)[1].mean()
        parts.append(torch.autograd.grad(trace, weight)[0])
    found = torch.stack(parts)
    deviation = (found.mean(0) - expected).abs() / (found.std(0) / len(parts) ** 0.5)
    assert float(deviation.max()) < 5.5


def test_hutch_plus_plus_is_exact_for_a_jacobian_of_low_rank_and_varies_less_for_a_steep_one() -> None:
    field = MLPField(DIM, (2,)).double()
    exact = estimates(Exact(), field, 1)[0]
    found = estimates(HutchPlusPlus("gaussian", 6), field, 50)
    torch.testing.assert_close(found, exact.expand(50), rtol=1e-9, atol=1e-9)

    scales = 3.0 ** -torch.arange(DIM, dtype=torch.float64)
    mixing = torch.linalg.qr(normal(DIM, DIM, seed=0, dtype=torch.float32).double())[0]
    matrix = mixing @ torch.diag(scales) @ mixing.T
    spreads = [
        float(estimates(kind, lambda t, y: y @ matrix, 4000).std())
        for kind in (HutchPlusPlus("gaussian", 6), Hutchinson("gaussian", 6))
    ]
    assert spreads[0] < spreads[1] / 2


@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
def test_gradients_through_hutch_plus_plus_equal_backprop(gradient: str) -> None:
    x, grads = normal(4, DIM, seed=2), {}
    for name in (gradient, "backprop"):
        controller = IController(rtol=1e-3, atol=1e-4)
        block = Block(perceptron(), divergence="hutchpp", gradient=gradient_of(name), controller=controller)
        flow = Flow([block], DIM)
        flow(x, seed=1).sum().backward()
        grads[name] = [p.grad for p in flow.parameters() if p.grad is not None]
    assert relative_error(grads[gradient], grads["backprop"]) < 1e-11


def test_a_field_that_is_zero_gives_hutch_plus_plus_no_nan() -> None:
    flow = Flow([Block(MLPField(DIM, (8,), zero_init=True), divergence="hutchpp")], DIM)
    flow(torch.randn(5, DIM)).sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in flow.parameters())


def test_more_probes_than_the_exact_trace_takes_are_refused_when_the_flow_is_made() -> None:
    with pytest.raises(ValueError, match="9 probes must be below the dimension 7"):
        Flow([Block(perceptron(), divergence=HutchPlusPlus(probes=9))], DIM)
    for probes in (1, 4):
        with pytest.raises(ValueError, match="multiple of 3"):
            HutchPlusPlus(probes=probes)


@pytest.mark.parametrize("kind", [Exact(), Hutchinson(), HutchPlusPlus()])
def test_the_likelihood_without_gradient_is_the_same_for_rows_that_require_one(kind: divergence.Divergence) -> None:
    torch.manual_seed(0)
    flow = Flow([Block(ResidualField(DIM, 8, 1), divergence=kind, solver="rk4")], DIM)
    x = torch.randn(6, DIM)
    with torch.no_grad():
        assert torch.equal(flow(x.clone().requires_grad_(), seed=0), flow(x, seed=0))


@pytest.mark.parametrize("kind", [Exact(), Hutchinson(), HutchPlusPlus()])
def test_a_field_that_returns_another_shape_than_the_states_is_refused(kind: divergence.Divergence) -> None:
    flow = Flow([Block(FirstColumn(), divergence=kind, solver="rk4")], DIM)
    with pytest.raises(ValueError, match=r"shape \[6, 1\] for a state of shape \[6, 7\]"):
        flow(torch.randn(6, DIM), seed=0)


@pytest.mark.parametrize("kind", [Hutchinson(probes=2), HutchPlusPlus()])
def test_the_probes_of_a_sample_follow_from_seed_step_and_its_number_alone(kind: divergence.Divergence) -> None:
    flow = Flow([Block(perceptron(), divergence=kind, solver="rk4")], DIM)
    x = normal(6, DIM, seed=2)
    index = torch.tensor([5, 90, 3, 10**9, 0, 7])
    whole = flow(x, seed=3, step=4, sample_index=index)
    assert torch.equal(whole, flow(x, seed=3, step=4, sample_index=index))
    order = torch.tensor([4, 1, 5])
    torch.testing.assert_close(flow(x[order], seed=3, step=4, sample_index=index[order]), whole[order])
    assert not torch.equal(flow(x, seed=3, step=5, sample_index=index), whole)
