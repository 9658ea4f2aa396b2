"""Fields: what each of them promises, whatever its kind."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symadj_core import FixedStep, IController
from symadj_core.flows import Block, Exact, Flow, MLPField, PotentialField, ProbeKey, ResidualField
from symadj_core.flows.fields.closed_form import AlongProbes
from symadj_core.flows.fields.closed_trace import ExactTrace
from tests.core.fields import steep_potential
from tests.core.systems import EXACT_GRADIENTS, gradient_of, relative_error

Make = Callable[..., nn.Module]
FIELDS: dict[str, Make] = {
    "mlp, no hidden layer": lambda dim, **o: MLPField(dim, (), **o),
    "mlp, one hidden layer": lambda dim, **o: MLPField(dim, (9,), **o),
    "mlp, two hidden layers": lambda dim, **o: MLPField(dim, (7, 5), time="concat", **o),
    "mlp, three hidden layers": lambda dim, **o: MLPField(dim, (7, 5, 6), activation="softplus", **o),
    "mlp, fourier": lambda dim, **o: MLPField(dim, (7, 5), time="fourier", activation="silu", **o),
    "residual": lambda dim, **o: ResidualField(dim, 8, 2, **o),
    "residual, fourier": lambda dim, **o: ResidualField(dim, 8, 1, time="fourier", activation="silu", **o),
    "potential": lambda dim, **o: steep_potential(dim, 8, **o),
    "potential, deep": lambda dim, **o: steep_potential(dim, 6, 4, 2, **o),
}
fields = pytest.mark.parametrize("make", FIELDS.values(), ids=FIELDS.keys())


@pytest.mark.parametrize(("dim", "context_dim"), [(1, 0), (2, 0), (10, 2), (10, 3), (64, 0), (784, 0)])
def test_a_perceptron_without_widths_of_its_own_has_room_to_pass_its_inputs_on(dim: int, context_dim: int) -> None:
    field, inputs = MLPField(dim, None, context_dim=context_dim), dim + context_dim
    layers = [layer.linear for layer in field.layers]
    assert min(layer.out_features for layer in layers[:-1]) >= min(8 * inputs, 1024)
    assert field.has_cheap_trace == (inputs > 12), "the exact trace of many columns costs no more than a probe"


def test_a_scale_of_the_inputs_is_one_of_the_first_layers_initial_weights() -> None:
    plain, scaled = made(MLPField), made(MLPField, input_scale=3.0)
    begins = dict(scaled.named_parameters())
    for name, values in plain.named_parameters():
        times = 3.0 if name.startswith("layers.0.linear.") else 1.0
        torch.testing.assert_close(begins[name], times * values)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_of_the_inputs_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="input_scale must be positive and finite"):
        MLPField(2, input_scale=scale)


class ByAutograd(nn.Module):
    """A field of which nothing is known in closed form."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.context_dim = field.context_dim

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        result: Tensor = self.field(t, y) if context is None else self.field(t, y, context)
        return result


def double(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(make: Make, dim: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(5)
    return make(dim, **options).double()


def flow_of(fields: list[nn.Module], dim: int = 3, **options: Any) -> Flow:
    return Flow([Block(field, **{"controller": IController(rtol=1e-3, atol=1e-4), **options}) for field in fields], dim)


@fields
def test_samples_may_have_times_of_their_own(make: Make) -> None:
    field, y, t = made(make), double(5, 3), torch.linspace(0, 1, 5, dtype=torch.float64)
    alone = torch.cat([field(time, row[None]) for time, row in zip(t, y, strict=True)])
    torch.testing.assert_close(field(t, y), alone)


@fields
@pytest.mark.parametrize("context_dim", [0, 2])
def test_the_exact_divergence_is_the_trace_that_autograd_finds(make: Make, context_dim: int) -> None:
    field, x = made(make, context_dim=context_dim), double(4, 3)
    context = double(4, 2, seed=2) if context_dim else None
    bare = ByAutograd(field)
    values, gradients = [], []
    for kind in (field, bare):
        flow = flow_of([kind], divergence="exact")
        field.zero_grad()
        value = flow(x, context=context)
        value.sum().backward()
        values.append(value.detach())
        gradients.append([p.grad.clone() for p in field.parameters() if p.grad is not None])
        assert len(gradients[-1]) >= len(list(field.parameters())) - 1
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    for known, found in zip(*gradients, strict=True):
        torch.testing.assert_close(known, found, rtol=1e-9, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    dim=st.integers(1, 5),
    hidden=st.lists(st.integers(1, 6), max_size=3),
    time=st.sampled_from(["concat", "concatsquash", "fourier"]),
    activation=st.sampled_from(["tanh", "softplus", "silu"]),
    context_dim=st.integers(0, 2),
    seed=st.integers(0, 10**6),
)
def test_a_perceptron_of_any_shape_has_the_trace_of_its_jacobian(
    dim: int, hidden: list[int], time: Any, activation: Any, context_dim: int, seed: int
) -> None:
    torch.manual_seed(seed)
    field = MLPField(dim, hidden, time=time, activation=activation, context_dim=context_dim).double()
    y, c, t = double(3, dim), double(3, context_dim, seed=2), torch.tensor(0.7, dtype=torch.float64)
    context = (lambda: c) if context_dim else None
    rates = field.traced(y, lambda t, y: (y, y), context=context)
    assert isinstance(rates, ExactTrace if len(hidden) in (1, 2) else AlongProbes)
    evaluate = (lambda v: field(t, v, c).sum(0)) if context_dim else (lambda v: field(t, v).sum(0))
    expected = torch.autograd.functional.jacobian(evaluate, y).diagonal(dim1=0, dim2=2).sum(-1)
    with torch.no_grad():
        torch.testing.assert_close(rates(t, y)[1], expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(rates(t, y.requires_grad_())[1], expected, rtol=1e-9, atol=1e-10)


@fields
@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
def test_gradients_of_weights_inputs_and_contexts_equal_backprop(make: Make, gradient: str) -> None:
    results = {}
    for name in (gradient, "backprop"):
        flow = flow_of([made(make, context_dim=2), made(make, context_dim=2)], gradient=gradient_of(name))
        x, encoder = double(4, 3).requires_grad_(), nn.Linear(3, 2).double()
        with torch.no_grad():
            encoder.weight.copy_(double(2, 3, seed=3))
            encoder.bias.zero_()
        flow(x, seed=1, context=encoder(double(4, 3, seed=4))).sum().backward()
        grads = [p.grad for p in (x, *flow.parameters(), *encoder.parameters())]
        assert sum(g is None for g in grads) <= 2
        results[name] = [torch.zeros(()) if g is None else g for g in grads]
    pairs = [(a, b) for a, b in zip(*results.values(), strict=True) if float(b.norm()) > 0]
    assert relative_error([a for a, _ in pairs], [b for _, b in pairs]) < 1e-11


@fields
def test_a_field_that_starts_at_zero_is_the_identity_and_can_leave_it(make: Make) -> None:
    flow, x = flow_of([made(make, zero_init=True)]), double(6, 3)
    torch.testing.assert_close(flow.to_base(x), x)
    optimiser = torch.optim.SGD(flow.parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = -flow(3 * x, seed=0).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in flow.parameters())


@fields
def test_the_density_over_the_plane_integrates_to_one(make: Make) -> None:
    flow = flow_of(
        [made(make, dim=2), made(make, dim=2)], 2, divergence="exact", controller=IController(rtol=1e-5, atol=1e-6)
    )
    with torch.no_grad():
        sample = flow.sample((2000,))
        centre, spread = sample.mean(0), 7 * sample.std(0)
        axes = [
            torch.linspace(float(c - s), float(c + s), 81, dtype=torch.float64)
            for c, s in zip(centre, spread, strict=True)
        ]
        density = flow(torch.cartesian_prod(*axes)).exp().view(81, 81)
    mass = torch.trapezoid(torch.trapezoid(density, axes[1], dim=1), axes[0], dim=0)
    assert float(mass) == pytest.approx(1.0, abs=1e-3)


@fields
def test_flows_are_copied_and_pickled_whole(make: Make) -> None:
    flow, x = flow_of([made(make)], learn_end_time=True), double(4, 3)
    flow(x, seed=0).sum().backward()
    expected = flow(x, seed=0)
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(twin(x, seed=0), expected)
        with torch.no_grad():
            next(twin.parameters()).add_(0.3)
        assert not torch.equal(twin(x, seed=0), expected)
        assert torch.equal(flow(x, seed=0), expected)


def test_reduced_precision_stays_within_the_field() -> None:
    torch.manual_seed(0)
    field = MLPField(3, (32, 32))
    for gradient in ("symplectic", "backprop", "aca"):
        block = Block(field, field_dtype=torch.bfloat16, gradient=gradient, controller=FixedStep(0.25), solver="rk4")
        flow, x = Flow([block], 3), torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        full = flow.with_settings(full_precision=True)
        reduced = flow(x, seed=0)
        assert reduced.dtype == torch.float32
        assert flow.to_base(x).dtype == torch.float32
        assert not torch.equal(reduced, full(x, seed=0))
        torch.testing.assert_close(reduced, full(x, seed=0), rtol=0.02, atol=0.02)
        grads = []
        for kind in (flow, full):
            kind.zero_grad()
            kind(x, seed=0).mean().backward()
            grads.append([p.grad.clone() for p in field.parameters() if p.grad is not None])
        assert all(g.dtype == torch.float32 for g in grads[0])
        assert float(torch.cat([(a - b).flatten() for a, b in zip(*grads, strict=True)]).norm()) < 0.05


def test_reduced_precision_has_the_gradients_of_backprop() -> None:
    torch.manual_seed(0)
    field, x = MLPField(3, (16, 16)), torch.randn(8, 3)
    grads = []
    for gradient in ("backprop", "symplectic", "aca", "onecheckpoint"):
        flow = Flow(
            [Block(field, field_dtype=torch.bfloat16, gradient=gradient, controller=FixedStep(0.5), solver="rk4")], 3
        )
        flow.zero_grad()
        flow(x, seed=0).mean().backward()
        grads.append([p.grad.clone() for p in field.parameters() if p.grad is not None])
    for other in grads[1:]:
        # Products of the backward pass are rounded to bfloat16, in another order.
        assert relative_error(other, grads[0]) < 0.02


def test_half_precision_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="below float16's range"):
        Block(MLPField(2), field_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"None or torch\.bfloat16"):
        Block(MLPField(2), field_dtype=torch.float64)
    flow = Flow([Block(MLPField(2), field_dtype=torch.bfloat16)], 2).double()
    with pytest.raises(ValueError, match="needs a float32 state"):
        flow(torch.zeros(2, 2, dtype=torch.float64))


def test_a_context_that_is_missing_unwanted_or_of_another_width_is_refused() -> None:
    plain, conditional = flow_of([MLPField(2)], 2), flow_of([MLPField(2, context_dim=3)], 2)
    x = torch.zeros(4, 2)
    for refused in (
        lambda: plain(x, context=torch.zeros(4, 3)),
        lambda: conditional(x),
        lambda: conditional(x, context=torch.zeros(4, 2)),
        lambda: plain.condition(torch.zeros(3)),
        lambda: conditional.condition(torch.zeros(2)),
        lambda: conditional.blocks[0].field(torch.tensor(0.0), x, torch.zeros(3, 3)),
        lambda: Flow([Block(MLPField(2)), Block(MLPField(2, context_dim=1))], 2),
    ):
        with pytest.raises(ValueError, match="context"):
            refused()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResidualField(2, 0),
        lambda: ResidualField(2, depth=0),
        lambda: ResidualField(0),
        lambda: PotentialField(2, depth=1),
        lambda: PotentialField(2, rank=0),
        lambda: PotentialField(2, context_dim=-1),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="at least"):
        make()


def test_a_layer_of_another_kind_is_never_left_out() -> None:
    class Sine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 5)

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return torch.sin(self.linear(x) + t)

    torch.manual_seed(0)
    field, y, t = MLPField(3, (5, 5)), torch.randn(4, 3), torch.tensor(0.2)
    field.layers[1] = Sine()
    jacobian = torch.autograd.functional.jacobian(lambda v: field(t, v).sum(0), y).permute(1, 0, 2)
    f, trace = Exact().rates(field, ProbeKey(0), torch.arange(4), y)(t, y)
    torch.testing.assert_close(f, field(t, y))
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(-1))


@pytest.mark.parametrize("gradient", ["symplectic", "backprop"])
def test_a_context_of_another_precision_gets_its_gradient(gradient: str) -> None:
    flow = flow_of([MLPField(3, (5,), context_dim=2)], gradient=gradient)
    context = double(4, 2).requires_grad_()
    flow(torch.zeros(4, 3), seed=0, context=context).sum().backward()
    assert context.grad is not None
    assert context.grad.dtype == torch.float64
    assert float(context.grad.norm()) > 0


def test_the_exact_trace_of_an_overridden_perceptron_is_taken_by_autograd() -> None:
    class Doubled(MLPField):
        def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
            return 2 * super().forward(t, y, context)

    torch.manual_seed(0)
    field, y, t = Doubled(3, (5, 5)), torch.randn(4, 3), torch.tensor(0.2)
    trace = Exact().rates(field, ProbeKey(0), torch.arange(4), y)(t, y)[1]
    jacobian = torch.autograd.functional.jacobian(lambda v: field(t, v).sum(0), y)
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=0, dim2=2).sum(-1))
