"""Whatever the registries name works with all else that they name, and a newcomer's own is right or refused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import symadj_core
from symadj_core import FixedStep, names
from symadj_core.flows import DIVERGENCES, FIELDS, REGULARISERS, Block, Flow, MLPField, PotentialField, VectorField
from symadj_core.flows.fields.activations import ACTIVATIONS
from symadj_core.flows.fields.layers import LAYERS
from symadj_core.flows.integrands.regularisers import Kinetic, Place, Regulariser
from symadj_core.gradients import ACA, GRADIENTS, GradientMethod, Symplectic
from symadj_core.gradients.base import Cotangents, InputGradients, Replay
from symadj_core.gradients.keep import KEEPS
from symadj_core.gradients.pullback import Pullback
from symadj_core.registry import Registry
from symadj_core.solvers.tableaus import TABLEAUS
from tests.core.systems import relative_error

# Of an image of two channels of 1 x 2 pixels, and of a row of four values.
SIZE: dict[str, Any] = {"dim": 4, "shape": (2, 1, 2)}
KEPT = {"states": 2, "size": 1}
EXACT = [name for name, kind in GRADIENTS.items() if kind.exact and name != "backprop"]


def keeps() -> Iterator[Symplectic]:
    """The symplectic adjoint with every policy of what is kept."""
    for kind in KEEPS.values():
        options = {name: KEPT[name] for name in inspect.signature(kind).parameters}
        yield Symplectic(keep=kind(**options))


def field_of(kind: type[VectorField], **options: Any) -> VectorField:
    torch.manual_seed(1)
    (size,) = (name for name in inspect.signature(kind).parameters if name in SIZE)
    # OT-Flow's potential starts with parameters that are zero.
    field = kind(**{size: SIZE[size]}, **options).double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return field


def loss_and_gradients(
    field: VectorField,
    gradient: str | GradientMethod,
    names: list[str],
    *,
    divergence: str = "hutchinson",
    solver: str = "heun2",
) -> list[Tensor]:
    """The regularised loss of a flow of two blocks, and its gradients for the rows, the end times and the weights."""
    torch.manual_seed(2)
    # Three steps a block: more than KEPT has places for.
    settings = {"gradient": gradient, "divergence": divergence, "solver": solver, "controller": FixedStep(0.35)}
    blocks = [Block(field, learn_end_time=True, **settings), Block(field, **settings)]  # type: ignore[arg-type]
    flow = Flow(blocks, 4).double()
    x = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    log_prob, costs = flow.regularised_log_prob(x, seed=3, regularisers=names)
    loss = log_prob.sum() + sum((n + 1) * cost.sum() for n, cost in enumerate(costs.values()))
    gradients = torch.autograd.grad(loss, [x, *flow.parameters()], allow_unused=True)
    return [loss.detach(), *(torch.zeros(1) if g is None else g for g in gradients)]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("field", FIELDS)
def test_every_regulariser_of_every_field_has_the_gradient_of_backprop(field: str, divergence: str) -> None:
    made = field_of(FIELDS[field])
    taken = []
    for name, regulariser in REGULARISERS.items():
        try:
            regulariser.check(DIVERGENCES[divergence](), made)
        except ValueError as refused:
            with pytest.raises(ValueError, match=re.escape(str(refused))):
                loss_and_gradients(made, "symplectic", [name], divergence=divergence)
        else:
            taken.append(name)
    # Each by itself, and all of them in one loss by every gradient.
    for priced, gradients in (*(([name], ["symplectic"]) for name in taken), (taken, [*EXACT, *keeps()])):
        reference = loss_and_gradients(made, "backprop", priced, divergence=divergence)
        for gradient in gradients:
            found = loss_and_gradients(made, gradient, priced, divergence=divergence)
            pairs = [(v, r) for v, r in zip(found, reference, strict=True) if r.norm() > 0]
            assert relative_error(*map(list, zip(*pairs, strict=True))) < 1e-12, (priced, gradient)
            assert all(v.norm() == 0 for v, r in zip(found, reference, strict=True) if r.norm() == 0)


def test_only_what_a_regulariser_needs_is_asked_for() -> None:
    refused = set()
    for (name, regulariser), field, divergence in product(REGULARISERS.items(), FIELDS, DIVERGENCES):
        try:
            regulariser.check(DIVERGENCES[divergence](), field_of(FIELDS[field]))
        except ValueError:
            refused.add((name, field, divergence))
    without_norm = {("jacobian_frobenius", field, "hutchpp") for field in FIELDS}
    without_potential = {("hjb", f, d) for f, d in product(FIELDS, DIVERGENCES) if f != "potential"}
    assert refused == without_norm | without_potential


def test_the_inexact_gradient_comes_close() -> None:
    (name,) = [name for name, kind in GRADIENTS.items() if not kind.exact]
    field = field_of(MLPField)
    reference = loss_and_gradients(field, "backprop", ["kinetic"], solver="rk4")
    found = loss_and_gradients(field, name, ["kinetic"], solver="rk4")
    assert 1e-12 < relative_error(found[1:], reference[1:]) < 1e-2


@pytest.mark.parametrize("solver", TABLEAUS)
def test_every_solver_gives_every_exact_gradient(solver: str) -> None:
    field = field_of(MLPField)
    reference = loss_and_gradients(field, "backprop", ["transport"], solver=solver)
    for gradient in EXACT:
        found = loss_and_gradients(field, gradient, ["transport"], solver=solver)
        assert relative_error(found, reference) < 1e-12, gradient


@pytest.mark.parametrize("time", LAYERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_every_layer_and_activation_has_the_gradient_of_backprop(time: str, activation: str, divergence: str) -> None:
    for kind in FIELDS.values():
        if "time" not in inspect.signature(kind).parameters:
            continue
        field = field_of(kind, time=time, activation=activation)
        reference = loss_and_gradients(field, "backprop", ["jacobian_frobenius"], divergence=divergence)
        found = loss_and_gradients(field, "symplectic", ["jacobian_frobenius"], divergence=divergence)
        assert relative_error(found, reference) < 1e-12, kind


@pytest.mark.parametrize(
    "registry", [GRADIENTS, FIELDS, DIVERGENCES, KEEPS, LAYERS, ACTIVATIONS, TABLEAUS, REGULARISERS]
)
def test_an_unknown_name_is_answered_with_those_that_there_are(registry: Registry[Any]) -> None:
    with pytest.raises(ValueError, match=f"unknown {registry.kind} 'nothing': there are {next(iter(registry))}"):
        registry.find("nothing")


# ------------------------------------------------------------------------------------------------ a newcomer's own


class Quartic(Regulariser):
    """|f|^4, which no field knows in closed form."""

    name = "quartic"

    def rate(self, place: Place) -> Tensor:
        return (2.0 * place.half_energy).square()


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_new_regulariser_is_taken_by_autograd(field: str, divergence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGULARISERS, Quartic.name, Quartic())
    made = field_of(FIELDS[field])
    flow = Flow([Block(made, divergence=divergence, solver="rk4", controller=FixedStep(0.05))], 4)
    y = torch.randn(1, 4, dtype=torch.float64)
    _, costs = flow.regularised_log_prob(y, seed=0, regularisers=["quartic", "transport", "jacobian_frobenius"])
    speeds = []
    for t in torch.linspace(0.025, 0.975, 20, dtype=torch.float64):
        end = Flow([Block(made, end_time=float(t), solver="rk4", controller=FixedStep(0.05))], 4).to_base(y)
        speeds.append(made(t, end).square().sum())
    assert float(costs["quartic"].detach()) == pytest.approx(float(torch.stack(speeds).square().mean()), rel=1e-2)
    names = ["quartic", "transport", "jacobian_frobenius"]
    reference = loss_and_gradients(made, "backprop", names, divergence=divergence)
    assert relative_error(loss_and_gradients(made, "symplectic", names, divergence=divergence), reference) < 1e-12


@dataclass(frozen=True)
class Careless(ACA):
    """As ACA, but it does not end its steps."""

    name: ClassVar[str] = "careless"

    def sweep(self, replay: Replay, cotangents: Cotangents, pullback: Pullback) -> InputGradients:
        end_step, pullback.end_step = pullback.end_step, lambda: None  # type: ignore[method-assign]
        try:
            return super().sweep(replay, cotangents, pullback)
        finally:
            pullback.end_step = end_step  # type: ignore[method-assign]


@pytest.mark.parametrize("field", FIELDS)
def test_a_new_gradient_that_forgets_to_end_its_steps_is_right_all_the_same(field: str) -> None:
    made = field_of(FIELDS[field])
    reference = loss_and_gradients(made, "backprop", ["kinetic"])
    assert relative_error(loss_and_gradients(made, Careless(), ["kinetic"]), reference) < 1e-12


class OwnField(VectorField):
    """A field that says nothing about itself."""

    name = "own"

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim, context_dim)
        self.layer = torch.nn.Linear(dim, dim)

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.sin(self.layer(y)) * (1 + t)


def test_a_new_field_that_says_nothing_about_itself_is_taken_for_a_costly_one_of_rows() -> None:
    field = field_of(OwnField)
    reference = loss_and_gradients(field, "backprop", ["kinetic"])
    for gradient in EXACT:
        assert relative_error(loss_and_gradients(field, gradient, ["kinetic"]), reference) < 1e-12
    flow = Flow([Block(field)], 4)
    assert (flow.knows_trace, flow.has_cheap_trace, flow.moves_images) == (False, False, False)


class QuarticOfKinetic(Kinetic):
    """|f|^4, by changing the rate of a regulariser that has a closed form."""

    name = "quartic_of_kinetic"

    def rate(self, place: Place) -> Tensor:
        return (2.0 * place.half_energy).square()


@pytest.mark.parametrize("field", FIELDS)
def test_a_regulariser_that_changes_the_rate_of_another_is_not_taken_for_it(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGULARISERS, Quartic.name, Quartic())
    monkeypatch.setitem(REGULARISERS, QuarticOfKinetic.name, QuarticOfKinetic())
    made = field_of(FIELDS[field])
    for gradient in ("backprop", "symplectic"):
        found = loss_and_gradients(made, gradient, [QuarticOfKinetic.name])
        assert relative_error(found, loss_and_gradients(made, "backprop", [Quartic.name])) < 1e-12


class TwicePotential(PotentialField):
    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        return 2.0 * super().forward(t, y, context)


class TwiceMLP(MLPField):
    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        return 2.0 * super().forward(t, y, context)


def doubled(field: VectorField) -> VectorField:
    """The same by a hook."""
    field.register_forward_hook(lambda module, inputs, output: 2.0 * output)
    return field


@pytest.mark.parametrize(
    "changed",
    [
        lambda: field_of(TwicePotential),
        lambda: field_of(TwiceMLP),
        lambda: doubled(field_of(PotentialField)),
        lambda: doubled(field_of(MLPField)),
    ],
    ids=["potential by a subclass", "mlp by a subclass", "potential by a hook", "mlp by a hook"],
)
def test_a_field_that_changes_another_is_not_taken_by_the_closed_form_of_the_other(changed: Any) -> None:
    field = changed()
    flow = Flow([Block(field, divergence="exact", solver="rk4", controller=FixedStep(0.05))], 4)
    y = torch.randn(4, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda t, y: field(t, y[None])[0], argnums=1)
    times = torch.linspace(0.025, 0.975, 20, dtype=torch.float64)
    ys = [
        Flow([Block(field, end_time=float(t), solver="rk4", controller=FixedStep(0.05))], 4).to_base(y) for t in times
    ]
    integral = torch.stack([jacobian(t, x).trace() for t, x in zip(times, ys, strict=True)]).mean()
    base = torch.distributions.Normal(0.0, 1.0).log_prob(flow.to_base(y)).sum()
    assert float(flow(y).detach() - base.detach()) == pytest.approx(float(integral.detach()), rel=1e-2)


class ShiftedMLP(MLPField):
    def inputs(self, y: Tensor, context: Tensor | None) -> Tensor:
        return torch.sin(super().inputs(y, context))


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_perceptron_that_changes_its_inputs_is_taken_by_autograd(divergence: str) -> None:
    field, y = field_of(ShiftedMLP), torch.randn(1, 4, dtype=torch.float64)
    reference = loss_and_gradients(field, "backprop", ["kinetic"], divergence=divergence)
    assert (
        relative_error(loss_and_gradients(field, "symplectic", ["kinetic"], divergence=divergence), reference) < 1e-12
    )
    assert not field.has_cheap_trace
    block = Block(field, divergence="exact", solver="euler", controller=FixedStep(1.0))
    start = torch.zeros((), dtype=torch.float64)
    trace = torch.autograd.functional.jacobian(lambda v: field(start, v[None])[0], y[0]).trace()
    log_prob, z = Flow([block], 4).log_prob(y), Flow([block], 4).to_base(y)
    assert float(log_prob - torch.distributions.Normal(0, 1).log_prob(z).sum()) == pytest.approx(float(trace))


@pytest.mark.parametrize("change", [lambda: field_of(TwicePotential), lambda: doubled(field_of(PotentialField))])
def test_hjb_of_a_field_that_is_not_the_gradient_of_its_potential_is_refused(change: Callable[[], VectorField]) -> None:
    with pytest.raises(ValueError, match="write hamilton_jacobi for it"):
        loss_and_gradients(change(), "symplectic", ["hjb"])


def test_a_name_of_the_library_is_the_same_whatever_was_imported_before() -> None:
    # By now all its modules are loaded, `symadj_core.solve` among them.
    assert [name for name in names.__all__ if getattr(symadj_core, name) is not getattr(names, name)] == []
