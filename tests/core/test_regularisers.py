"""Regularisers as quadratures beside the log-determinant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.integrate import simpson
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from symadj_core import FixedStep, IController
from symadj_core.flows import (
    REGULARISERS,
    Block,
    Divergence,
    Exact,
    Flow,
    Hutchinson,
    MLPField,
    ProbeKey,
    ResidualField,
)
from symadj_core.flows.fields.closed_form import PerceptronRates
from symadj_core.flows.integrands.regularisers import by_names, regularised_rates
from tests.core.fields import steep_potential
from tests.core.systems import EXACT_GRADIENTS, gradient_of, normal, relative_error

OF_ANY_FIELD = ("kinetic", "jacobian_frobenius", "transport")
FIELDS: dict[str, Any] = {
    "perceptron": lambda **o: MLPField(3, (7, 5), **o),
    "deeper perceptron": lambda **o: MLPField(3, (6, 5, 4), time="fourier", activation="silu", **o),
    "residual": lambda **o: ResidualField(3, 6, 1, **o),
    "potential": lambda **o: steep_potential(3, 6, 3, **o),
}


def double(*shape: int, seed: int = 1) -> Tensor:
    return normal(*shape, seed=seed)


def flow_of(name: str, blocks: int = 2, context_dim: int = 0, **options: Any) -> Flow:
    torch.manual_seed(2)
    options = {"controller": IController(rtol=1e-3, atol=1e-4), **options}
    return Flow([Block(FIELDS[name](context_dim=context_dim), **options) for _ in range(blocks)], 3).double()


def exact_names_for(field: str) -> tuple[str, ...]:
    """The norm of the Jacobian is exact where the exact trace has no closed form."""
    return tuple(n for n in names_for(field) if n != "jacobian_frobenius" or field in ("deeper perceptron", "residual"))


def names_for(field: str) -> tuple[str, ...]:
    return REGULARISERS if field == "potential" else OF_ANY_FIELD


@pytest.mark.parametrize("field", FIELDS)
def test_regularisers_are_the_integrals_of_their_definitions(field: str) -> None:
    steps = 32
    flow, x = flow_of(field, divergence="exact", solver="rk4", controller=FixedStep(1 / steps)), double(4, 3)
    log_prob, found = flow.regularised_log_prob(x, seed=0, regularisers=exact_names_for(field))
    torch.testing.assert_close(log_prob, flow(x, seed=0), rtol=1e-9, atol=1e-9)

    s = torch.linspace(0, 2, 2 * steps + 1, dtype=torch.float64)
    path = flow.transport(x, s).detach()
    rates: dict[str, list[Tensor]] = {name: [] for name in found}
    for m, block in enumerate(flow.stack()):
        own = slice(m * steps, m * steps + steps + 1)
        for time, y in zip(s[own] - m, path[own], strict=True):
            f = block.field(time, y)
            jacobian = torch.autograd.functional.jacobian(lambda v: block.field(time, v).sum(0), y)  # noqa: B023
            rates["kinetic"].append(f.square().sum(-1))
            rates["transport"].append(0.5 * f.square().sum(-1))
            if "jacobian_frobenius" in rates:
                rates["jacobian_frobenius"].append(jacobian.square().sum((0, 2)))
            if "hjb" in rates:
                rates["hjb"].append(block.field.hamilton_jacobi(time, y).abs())
    for name, values in rates.items():
        rate = torch.stack(values).detach().view(2, steps + 1, 4).cpu().numpy()
        integral = simpson(rate, dx=1 / steps, axis=1).sum(0)
        torch.testing.assert_close(found[name], torch.from_numpy(integral).to(found[name]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_gradient_of_every_regulariser_equals_backprop_with_a_context(field: str, divergence: str) -> None:
    """Without one: tests/core/test_registries.py."""
    x, context, names = double(4, 3), double(4, 2, seed=2).requires_grad_(), names_for(field)

    def gradients(method: str) -> list[tuple[Tensor, ...]]:
        flow = flow_of(
            field,
            context_dim=2,
            divergence=divergence,
            gradient=gradient_of(method),
            learn_end_time=True,
            solver="bosh3",
            controller=FixedStep(0.4),
        )
        _, found = flow.regularised_log_prob(x, seed=1, context=context, regularisers=names)
        inputs = [*flow.parameters(), context]
        return [torch.autograd.grad(found[name].sum(), inputs, retain_graph=True, allow_unused=True) for name in names]

    reference = gradients("backprop")
    for method in EXACT_GRADIENTS:
        for one, other in zip(gradients(method), reference, strict=True):
            pairs = [(a, b) for a, b in zip(one, other, strict=True) if b is not None and float(b.norm()) > 1e-12]
            assert len(pairs) > len(other) / 2
            assert relative_error([a for a, _ in pairs], [b for _, b in pairs]) < 1e-9, method


@pytest.mark.parametrize("field", ["perceptron", "deeper perceptron"])
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(), Hutchinson("gaussian", 3)])
@pytest.mark.parametrize("names", [OF_ANY_FIELD, ("transport", "kinetic"), ("jacobian_frobenius",)])
def test_a_perceptron_pulls_all_of_them_back_in_closed_form(
    field: str, context_dim: int, divergence: Divergence, names: tuple[str, ...]
) -> None:
    flow = flow_of(field, 1, context_dim, divergence=divergence)
    (block,) = flow.stack()
    y, c = double(4, 3), double(4, 2, seed=2) if context_dim else None
    used = block.field_for(None if c is None else c.requires_grad_())
    rates = regularised_rates(divergence, used, ProbeKey(0), torch.arange(4), y, by_names(names))
    assert isinstance(rates, PerceptronRates)
    t, state, quadrature = (
        torch.tensor(0.4, dtype=torch.float64),
        double(4, 3, seed=3),
        double(4, 1 + len(names), seed=4),
    )
    leaf = y.clone().requires_grad_()
    f, g = rates(t, leaf)
    with torch.no_grad():
        values = rates(t, y)
    torch.testing.assert_close(values, (f.detach(), g.detach()))
    inputs = [leaf, *used.parameters()]
    expected = torch.autograd.grad([f, g], inputs, [state, quadrature])
    with torch.no_grad():
        back = rates.pull(t, y, state, quadrature)
    torch.testing.assert_close(back, expected[0])
    for parameter, gradient in zip(inputs[1:], expected[1:], strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("field", ["perceptron", "residual", "potential"])
@pytest.mark.parametrize("divergence", [Hutchinson(), Exact()])
def test_the_norm_of_the_jacobian_is_exact_or_unbiased(field: str, divergence: Divergence) -> None:
    (block,) = flow_of(field, 1).stack()
    y, t, rows = double(1, 3), torch.tensor(0.4, dtype=torch.float64), 20_000
    jacobian = torch.autograd.functional.jacobian(lambda v: block.field(t, v[None])[0], y[0])
    many = y.expand(rows, 3)
    rates = regularised_rates(
        divergence, block.field, ProbeKey(3), torch.arange(rows), many, by_names(["jacobian_frobenius"])
    )
    with torch.no_grad():
        trace, norm = rates(t, many)[1].unbind(-1)
    assert abs(float(norm.mean() - jacobian.square().sum())) < 5 * float(norm.std()) / rows**0.5 + 1e-9
    assert abs(float(trace.mean() - jacobian.trace())) < 5 * float(trace.std()) / rows**0.5 + 1e-9
    assert (float(trace.std()) < 1e-9) == isinstance(divergence, Exact)


def test_a_penalty_on_the_kinetic_energy_makes_straighter_and_cheaper_flows() -> None:
    x = normal(256, 2, seed=0, dtype=torch.float32) * torch.tensor([0.3, 2.0])
    uses = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        flow = Flow([Block(MLPField(2, (16, 16)), controller=IController(rtol=1e-4, atol=1e-5))], 2)
        optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
        for step in range(25):
            optimiser.zero_grad()
            log_prob, costs = flow.regularised_log_prob(x, seed=0, step=step, regularisers=["kinetic"])
            (weight * costs["kinetic"] - log_prob).mean().backward()
            optimiser.step()
        uses.append(float(costs["kinetic"].detach().mean()))
    assert uses[1] < uses[0]


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("gradient", ["symplectic", "backprop"])
def test_ddp_around_a_flow_with_regularisers_gives_its_gradients(gradient: str) -> None:
    class Objective(nn.Module):
        def __init__(self, flow: Flow) -> None:
            super().__init__()
            self.flow = flow

        def forward(self, x: Tensor) -> Tensor:
            log_prob, costs = self.flow.regularised_log_prob(x, seed=0, regularisers=OF_ANY_FIELD)
            return (torch.stack(list(costs.values())).sum(0) - log_prob).mean()

    alone, wrapped = (Objective(flow_of("perceptron", gradient=gradient)) for _ in range(2))
    alone(double(6, 3)).backward()
    parallel = DistributedDataParallel(wrapped)
    for _ in range(2):
        parallel.zero_grad()
        parallel(double(6, 3)).backward()
    for a, b in zip(alone.parameters(), wrapped.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    ("field", "options", "names", "words"),
    [
        ("perceptron", {}, ["hjb"], "potential, not MLPField"),
        ("perceptron", {}, ["energy"], "unknown regulariser 'energy': there are kinetic"),
        ("perceptron", {}, ["kinetic", "kinetic"], "name each once"),
    ],
)
def test_regularisers_that_cannot_be_had_are_refused(
    field: str, options: dict[str, Any], names: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        flow_of(field, **options).regularised_log_prob(double(4, 3), regularisers=names)


def test_a_divergence_that_gives_no_norm_of_the_jacobian_says_which_do() -> None:
    flow = Flow([Block(MLPField(6), divergence="hutchpp")], 6)
    with pytest.raises(ValueError, match="'hutchpp' gives no norm of the Jacobian: take 'hutchinson' or 'exact'"):
        flow.regularised_log_prob(torch.zeros(2, 6), regularisers=["jacobian_frobenius"])
