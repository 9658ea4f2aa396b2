"""The torchdiffeq-shaped functions against torchdiffeq's own conventions and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symadj_core import (
    odeint,
    odeint_adjoint,
    odeint_checkpoint,
    odeint_dense,
    odeint_event,
    odeint_onecheckpoint,
    odeint_symplectic_adjoint,
)
from tests.core.systems import SmallField, relative_error, start

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "odeint": odeint,
    "adjoint": odeint_adjoint,
    "onecheckpoint": odeint_onecheckpoint,
    "checkpoint": odeint_checkpoint,
    "symplectic": odeint_symplectic_adjoint,
}
EXACT = ["onecheckpoint", "checkpoint", "symplectic"]
each_function = pytest.mark.parametrize("name", list(FUNCTIONS))


class Pair(nn.Module):
    """A field over a tuple of tensors of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.0, 1.0], [-1.0, -0.1]], dtype=torch.float64))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, total = state
        return y @ self.weight.T, y.square().sum() - 0.1 * total * t


def span(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


@each_function
@pytest.mark.parametrize("method", ["dopri5", "rk4", "bosh3", "tsit5"])
def test_tuples_come_back_as_tuples_with_gradients(name: str, method: str) -> None:
    options = {"step_size": 0.05} if method == "rk4" else {}
    grads = []
    for function in (FUNCTIONS[name], odeint):
        field = Pair()
        y0 = (torch.ones(3, 2, dtype=torch.float64, requires_grad=True), torch.zeros((), dtype=torch.float64))
        y, total = function(field, y0, span(0, 0.3, 1), method=method, options=options)
        assert y.shape == (3, 3, 2)
        assert total.shape == (3,)
        (y[-1].sum() + total.sum()).backward()
        assert y0[0].grad is not None
        assert field.weight.grad is not None
        grads.append([y0[0].grad, field.weight.grad])
    assert relative_error(grads[0], grads[1]) < (1e-5 if name == "adjoint" else 1e-13)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("method", ["dopri5", "rk4", "euler", "dopri8"])
@pytest.mark.parametrize("times", [(0.0, 0.2, 0.9), (0.9, 0.2, 0.0)])
def test_every_entry_of_t_has_the_gradient_of_backprop(name: str, method: str, times: tuple[float, ...]) -> None:
    grads = []
    for function in (FUNCTIONS[name], odeint):
        field, y0, t = SmallField(), start(), span(*times).requires_grad_()
        ys = function(field, y0, t, method=method, rtol=1e-5, atol=1e-6)
        grads.append(list(torch.autograd.grad(ys.square().sum(), [t, y0, *field.parameters()])))
    assert relative_error(grads[0], grads[1]) < 1e-14
    assert (grads[0][0] != 0).all()


@each_function
def test_the_solution_is_right_forwards_and_backwards(name: str) -> None:
    y0 = torch.ones(2, dtype=torch.float64)
    forward = FUNCTIONS[name](lambda t, y: -y * t, y0, torch.linspace(0, 2, 9, dtype=torch.float64))
    torch.testing.assert_close(forward[-1], torch.exp(torch.full_like(y0, -2.0)), rtol=1e-6, atol=0)
    back = FUNCTIONS[name](lambda t, y: -y * t, forward[-1], torch.linspace(2, 0, 9, dtype=torch.float64))
    torch.testing.assert_close(back, forward.flip(0), rtol=1e-5, atol=0)


@each_function
def test_one_time_alone_returns_the_start(name: str) -> None:
    assert torch.equal(FUNCTIONS[name](SmallField(), start(), span(0.5)), start()[None])


def test_rk4_is_the_three_eighths_rule_and_classic_has_its_own_name() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(t))
        return -y

    seen: list[float] = []
    odeint(field, torch.ones(1, dtype=torch.float64), span(0, 3), method="rk4")
    assert {round(t, 9) for t in seen} == {0, 1, 2, 3}
    seen.clear()
    odeint(field, torch.ones(1, dtype=torch.float64), span(0, 3), method="rk4_classic")
    assert {round(t, 9) for t in seen} == {0, 1.5, 3}


@pytest.mark.parametrize(("interp", "error"), [("linear", 1e-3), ("cubic", 1e-6)])
def test_fixed_steps_interpolate_as_asked(interp: str, error: float) -> None:
    options = {"step_size": 0.1, "interp": interp}
    ys = odeint(lambda t, y: -y, torch.ones(1, dtype=torch.float64), span(0, 0.55, 1), method="rk4", options=options)
    difference = abs(float(ys[1]) - math.exp(-0.55))
    assert error / 20 < difference < error * 20


def test_linear_interpolation_is_the_default_of_fixed_steps() -> None:
    y0, t = torch.ones(1, dtype=torch.float64), span(0, 0.55, 1)
    default = odeint(lambda t, y: -y, y0, t, method="rk4", options={"step_size": 0.1})
    linear = odeint(lambda t, y: -y, y0, t, method="rk4", options={"step_size": 0.1, "interp": "linear"})
    assert torch.equal(default, linear)


def test_a_grid_constructor_is_called_with_field_state_and_times() -> None:
    field, y0 = SmallField(), start()

    def construct(func: Any, state: Tensor, t: Tensor) -> Tensor:
        assert func is field
        assert state is y0
        return torch.tensor([float(t[0]), 0.5, float(t[-1])])

    calls: list[float] = []
    field.callback_step = lambda t0, y, dt: calls.append(float(dt))  # type: ignore[assignment]
    odeint(field, y0, span(0, 1), method="euler", options={"grid_constructor": construct})
    assert calls == [0.5, 0.5]


def test_perturbed_grid_points_are_never_met_exactly() -> None:
    seen: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(float(t))
        return torch.where(t < 0.5, 1.0, 3.0) * torch.ones_like(y)

    options = {"step_size": 0.25, "perturb": True}
    with torch.no_grad():
        ys = odeint(field, torch.zeros(1, dtype=torch.float64), span(0, 1), method="heun2", options=options)
    assert not {0.0, 0.25, 0.5, 0.75, 1.0} & set(seen)
    assert float(ys[-1]) == pytest.approx(2.0, rel=1e-12)


@each_function
def test_callbacks_of_torchdiffeq_are_called(name: str) -> None:
    class Watched(SmallField):
        def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            counts["step"] += 1
            assert y0.shape == (4, 3)
            assert t0.dim() == dt.dim() == 0

        def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            counts["accept"] += 1

        def callback_reject_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            counts["reject"] += 1

        def callback_step_adjoint(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            counts["adjoint"] += 1

    counts = dict.fromkeys(("step", "accept", "reject", "adjoint"), 0)
    ys = FUNCTIONS[name](Watched(), start(), span(0, 1), rtol=1e-5, options={"first_step": 0.9})
    assert counts["reject"] > 0
    assert counts["step"] == counts["accept"] + counts["reject"]
    ys.sum().backward()
    assert (counts["adjoint"] > 0) == (name == "adjoint")


def test_tolerances_may_differ_by_component() -> None:
    y0 = (torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64))

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cos(20 * t) * state[0], -state[1]

    def uses(rtol: Any) -> int:
        used = [0]

        def counted(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            used[0] += 1
            return field(t, state)

        with torch.no_grad():
            odeint(counted, y0, span(0, 1), rtol=rtol, atol=(1e-12, 1e-12))
        return used[0]

    assert uses((1e-2, 1e-5)) < uses((1e-8, 1e-5))
    assert uses((1e-8, 1e-8)) == uses((torch.full((2,), 1e-8), torch.full((3,), 1e-8)))


def test_a_custom_norm_sees_the_state_as_the_user_does() -> None:
    def first_only(state: tuple[Tensor, Tensor]) -> Tensor:
        assert state[0].shape == (3, 2)
        return state[0].abs().max()

    y0 = (torch.ones(3, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    odeint(Pair(), y0, span(0, 1), options={"norm": first_only})
    odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), options={"norm": lambda y: y.abs().max()})


def test_a_step_is_taken_at_min_step_whatever_its_error() -> None:
    ys = odeint(
        lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), rtol=1e-12, atol=1e-12, options={"min_step": 0.25}
    )
    assert float(ys[-1]) == pytest.approx(math.exp(-1), rel=1e-4)


def test_unknown_options_are_warned_of_and_unknown_methods_refused() -> None:
    y0, t = torch.ones(1), torch.tensor([0.0, 1.0])
    with pytest.warns(UserWarning, match="magic"):
        odeint(lambda t, y: -y, y0, t, options={"magic": 1})
    with pytest.raises(ValueError, match="scipy_solver"):
        odeint(lambda t, y: -y, y0, t, method="scipy_solver")
    with pytest.raises(ValueError, match="interp"):
        odeint(lambda t, y: -y, y0, t, method="rk4", options={"interp": "spline"})


@pytest.mark.parametrize("norm", ["seminorm", "custom", None])
def test_the_adjoint_takes_its_own_method_tolerances_and_norm(norm: str | None) -> None:
    parts: list[int] = []

    def custom(state: tuple[Tensor, ...]) -> Tensor:
        parts.append(len(state))
        return torch.stack([x.abs().max() for x in state]).max()

    field, y0 = SmallField(), start()
    options = {"norm": custom if norm == "custom" else norm} if norm else {}
    ys = odeint_adjoint(
        field, y0, span(0, 1), adjoint_rtol=1e-8, adjoint_atol=1e-9, adjoint_method="bosh3", adjoint_options=options
    )
    grads = torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()])
    ys = odeint(field, y0, span(0, 1))
    expected = torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()])
    assert relative_error(list(grads), list(expected)) < 1e-4
    assert set(parts) == ({3 + 4} if norm == "custom" else set())


def test_adjoint_params_limit_the_gradients() -> None:
    field, y0 = SmallField(), start()
    odeint_symplectic_adjoint(field, y0, span(0, 1), adjoint_params=[field.outer.bias]).sum().backward()
    assert field.outer.bias.grad is not None
    assert field.inner.weight.grad is None


class Fall(nn.Module):
    """A ball under gravity: height and velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(9.8, dtype=torch.float64))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        _, velocity = state
        return velocity, -self.gravity * torch.ones_like(velocity)


@pytest.mark.parametrize("name", ["odeint", "symplectic", "adjoint"])
def test_the_time_of_an_event_is_found_and_differentiable(name: str) -> None:
    field = Fall()
    height = torch.tensor([10.0], dtype=torch.float64, requires_grad=True)
    t, (position, velocity) = odeint_event(
        field,
        (height, torch.zeros(1, dtype=torch.float64)),
        torch.tensor(0.0, dtype=torch.float64),
        event_fn=lambda t, state: state[0],
        odeint_interface=FUNCTIONS[name],
    )
    assert float(t.detach()) == pytest.approx(math.sqrt(2 * 10 / 9.8), rel=1e-8)
    assert float(position[-1].detach()) == pytest.approx(0.0, abs=1e-7)
    g_height, g_gravity = torch.autograd.grad(t, [height, field.gravity], retain_graph=True)
    assert float(g_height) == pytest.approx(1 / math.sqrt(2 * 10 * 9.8), rel=1e-6)
    assert float(g_gravity) == pytest.approx(-math.sqrt(2 * 10) / 2 * 9.8**-1.5, rel=1e-6)
    # v = -sqrt(2 g h) at the ground, whatever the time taken.
    (dv,) = torch.autograd.grad(velocity[-1].sum(), height)
    assert float(dv) == pytest.approx(-math.sqrt(9.8 / 20), rel=1e-6)


def test_an_event_in_reverse_time_and_the_first_of_several_are_found() -> None:
    y0 = torch.ones(2, dtype=torch.float64)
    t0 = torch.tensor(0.0, dtype=torch.float64)
    event_t, ys = odeint_event(
        lambda t, y: -y, y0, t0, event_fn=lambda t, y: y - torch.tensor([3.0, 2.0]), reverse_time=True
    )
    assert float(event_t.detach()) == pytest.approx(-math.log(2), rel=1e-7)
    assert ys.shape == (2, 2)


def test_dense_output_is_the_solution_anywhere_and_differentiable() -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, dtype=torch.float64)
    for method in ("dopri5", "bosh3", "dopri8"):
        solution = odeint_dense(lambda t, y: -rate * y, y0, torch.tensor(0.0), torch.tensor(2.0), method=method)
        t = span(0.0, 0.123, 1.9, 2.0).requires_grad_()
        values = solution(t)
        assert values.shape == (4, 2)
        torch.testing.assert_close(values[:, 0], torch.exp(-0.7 * t), rtol=1e-6, atol=0)
        dt, drate = torch.autograd.grad(values[:, 0].sum(), [t, rate])
        torch.testing.assert_close(dt, -0.7 * torch.exp(-0.7 * t.detach()), rtol=1e-4, atol=0)
        torch.testing.assert_close(drate, (-t * torch.exp(-0.7 * t)).sum().detach(), rtol=1e-5, atol=0)
        with pytest.raises(ValueError, match="outside"):
            solution(torch.tensor(2.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.1), (0.7, 0.1), (-0.3, 0.3), (1.1, 2.3)])
def test_dense_output_takes_its_ends_in_any_dtype(dtype: torch.dtype, start: float, end: float) -> None:
    # 0.1 is a little more in float32 than in float64, and much more in bfloat16.
    y0 = torch.ones(1, dtype=torch.float64)
    rounded = odeint_dense(lambda t, y: -y, y0, torch.tensor(start), torch.tensor(end))
    exact = odeint_dense(lambda t, y: -y, y0, start, end)
    for solution in (rounded, exact):
        ends = torch.tensor([start, end], dtype=dtype)
        within = ends.double().clamp(min(start, end), max(start, end))
        torch.testing.assert_close(solution(ends)[:, 0], torch.exp(start - within), rtol=1e-6, atol=0)
        with pytest.raises(ValueError, match="outside"):
            solution(torch.tensor([end + 0.1 * (end - start)], dtype=dtype))
    assert float(exact(end)) == pytest.approx(math.exp(start - end), rel=1e-6)


class Categories(nn.Module):
    """A field whose rates are looked up, with gradients of the few rows that were."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rates = nn.Embedding(6, 2, sparse=sparse, dtype=torch.float64)
        self.register_buffer("of", torch.tensor([1, 4, 1]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rates(self.of) * torch.cos(t) - 0.1 * y


@each_function
def test_sparse_gradients_of_an_embedding_come_out_sparse(name: str) -> None:
    y0 = torch.ones(3, 2, dtype=torch.float64)
    grads = []
    for sparse in (True, False):
        field = Categories(sparse)
        FUNCTIONS[name](field, y0, span(0, 1))[-1].square().sum().backward()
        grad = field.rates.weight.grad
        assert grad is not None
        assert grad.is_sparse == sparse
        grads.append(grad.to_dense())
    torch.testing.assert_close(grads[0], grads[1])
    assert (grads[0][[1, 4]] != 0).all()
    torch.optim.SparseAdam(Categories(True).parameters())


class Point(NamedTuple):
    x: Tensor
    v: Tensor


def rates_of(t: Tensor, state: Any) -> Any:
    """-1 times every tensor of a state of any form."""
    if isinstance(state, Tensor):
        return -state
    if isinstance(state, dict):
        # Another order of the keys is the same dict.
        return {key: rates_of(t, state[key]) for key in reversed(state)}
    parts = [rates_of(t, part) for part in state]
    return Point(*parts) if isinstance(state, Point) else type(state)(parts)


def one(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64, requires_grad=True)


FORMS: dict[str, Callable[[], Any]] = {
    "tuple": lambda: (one(2), one()),
    "list": lambda: [one(2), one()],
    "dict": lambda: {"x": one(2), "v": one(3, 1)},
    "named tuple": lambda: Point(one(2), one(2)),
    "nested": lambda: ({"a": one(2), "b": [one(), one(1, 2)]}, Point(one(2), one(2)), one()),
}


def tensors_of(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [x for part in (state.values() if isinstance(state, dict) else state) for x in tensors_of(part)]


@each_function
@pytest.mark.parametrize("form", list(FORMS))
def test_a_state_of_any_form_comes_back_in_that_form_with_gradients(name: str, form: str) -> None:
    y0 = FORMS[form]()
    states = FUNCTIONS[name](rates_of, y0, span(0, 0.5, 1))
    assert type(states) is type(y0)
    if isinstance(y0, dict):
        assert list(states) == list(y0)
    for start_, found in zip(tensors_of(y0), tensors_of(states), strict=True):
        assert found.shape == (3, *start_.shape)
        torch.testing.assert_close(found[-1], math.exp(-1) * start_.detach(), rtol=1e-6, atol=0, check_dtype=True)
    sum(x[-1].sum() for x in tensors_of(states)).backward()  # type: ignore[union-attr]
    for x in tensors_of(y0):
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.full_like(x, math.exp(-1)), rtol=1e-5, atol=0)


@each_function
def test_an_event_of_a_state_in_a_dict_is_found_with_its_gradient(name: str) -> None:
    y0 = {"x": one(), "more": (one(2),)}
    options = {"event_fn": lambda t, y: y["x"] - 0.5, "odeint_interface": FUNCTIONS[name]}
    t, states = odeint_event(rates_of, y0, 0.0, **options)
    assert float(t) == pytest.approx(math.log(2), abs=1e-5)
    assert states["more"][0].shape == (2, 2)
    t.backward()
    assert y0["x"].grad is not None  # type: ignore[union-attr]
    assert float(y0["x"].grad) == pytest.approx(1.0, rel=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("y0", "match"),
    [
        (np.ones(2), r"y0 is a numpy.ndarray, not a tensor: pass torch.as_tensor"),
        (1.0, "y0 is a float, not a tensor"),
        ([1.0, 2.0], r"y0\[0\] is a float, not a tensor"),
        ({"x": one(1), "v": (one(1), None)}, r"y0\['v'\]\[1\] is a NoneType, not a tensor"),
    ],
)
def test_a_state_that_is_not_of_tensors_is_told_which_part_is_none(y0: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        odeint(rates_of, y0, span(0, 1))


@pytest.mark.parametrize("y0", [(), [], {}, ({}, [])])
def test_a_state_without_tensors_is_refused(y0: Any) -> None:
    with pytest.raises(ValueError, match="y0 is empty"):
        odeint(rates_of, y0, span(0, 1))


@pytest.mark.parametrize(
    ("y0", "rates", "match"),
    [
        (one(2), (one(2),), "the field returned a tuple, not a tensor of the state's shape"),
        ((one(2), one(3)), one(5), r"the field returned a torch.Tensor for y, which is a tuple of 2"),
        ((one(2), one(3)), (one(2),), r"the field returned 1 parts for y, which is a tuple of 2"),
        ((one(2), one(3)), (one(3), one(2)), r"a tensor of shape \[3\] for y\[0\], whose shape is \[2\]"),
        ((one(2), one()), (one(2), 0.0), r"a float for y\[1\], not a tensor of shape \[\]"),
        ({"x": one(2), "v": one(2)}, {"x": one(2)}, "a dict of 'x' for y, which is a dict of 'x', 'v'"),
        ({"x": one(2)}, (one(2),), "a tuple for y, which is a dict of 'x'"),
    ],
)
def test_rates_of_another_form_than_the_state_are_refused(y0: Any, rates: Any, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        odeint(lambda t, y: rates, y0, span(0, 1))


def test_methods_that_are_not_here_are_told_what_to_use_instead() -> None:
    for method, instead in (("scipy_solver", "dopri5"), ("explicit_adams", "rk4"), ("implicit_adams", "rk4")):
        with pytest.raises(ValueError, match=f"there is no method '{method}' here, .*{instead}"):
            odeint(rates_of, one(1), span(0, 1), method=method)


@pytest.mark.parametrize("suffix", ["", "_adjoint"])
def test_callbacks_that_are_never_called_are_warned_of(suffix: str) -> None:
    field, called = SmallField(), []
    for what in ("step", "accept_step", "reject_step"):
        setattr(field, f"callback_{what}{suffix}", lambda *arguments: called.append(len(arguments)))
    with pytest.warns(UserWarning, match=f"never calls callback_accept_step{suffix}, callback_reject_step{suffix}"):
        odeint_adjoint(field, start(), span(0, 1), method="rk4")[-1].sum().backward()
    assert set(called) == {3}


@pytest.mark.parametrize("tolerances", [{"rtol": (1e-5, 1e-6)}, {"atol": [1e-5, 1e-6]}])
def test_a_tolerance_for_each_tensor_needs_as_many_tensors(tolerances: dict[str, Any]) -> None:
    for y0 in (one(2), (one(1),), {"x": one(1), "v": one(1)}):
        with pytest.raises(ValueError, match=f"{next(iter(tolerances))} has a tolerance for each of 2 tensors"):
            odeint(rates_of, y0, span(0, 1), **tolerances)
