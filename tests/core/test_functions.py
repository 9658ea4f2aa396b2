"""Fields that are plain functions: what they capture is found, gets its whole gradient, and is left as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from symadj_core import FixedStep, IController, odeint_symplectic_adjoint, solve
from symadj_core.gradients import GRADIENTS
from tests.core.systems import EXACT_GRADIENTS, SmallField, gradient_of, relative_error

T = torch.tensor([0.0, 1.0], dtype=torch.float64)
REPLAYED = [*EXACT_GRADIENTS, "adjoint"]
each_exact = pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
each_replayed = pytest.mark.parametrize("gradient", REPLAYED)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# Each of them hands a cotangent on as it is to more than one input, as addition does in autograd.
SHARED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "y + a": lambda y, a, b: y + a,
    "a + b": lambda y, a, b: a + b,
    "y + a + b": lambda y, a, b: y + a + b,
    "tanh(y + a) + b": lambda y, a, b: torch.tanh(y + a) + b,
}


@each_exact
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("solver", ["euler", "rk4", "bosh3", "dopri5"])
def test_tensors_that_share_a_cotangent_get_a_gradient_each(name: str, solver: str, gradient: str) -> None:
    def gradients(method: str) -> list[Tensor]:
        y, a, b = leaf(1, 2, 3), leaf(0.1, 0.2, 0.3), leaf(-0.1, 0.5, 0.2)
        ys = solve(
            lambda t, y: SHARED[name](y, a, b), y, T, solver=solver, gradient=gradient_of(method), controller=None
        ).ys
        ys[-1].square().sum().backward()
        return [torch.zeros(3) if x.grad is None else x.grad for x in (y, a, b)]

    assert relative_error(gradients(gradient), gradients("backprop")) < 1e-14


@each_exact
def test_a_tensor_named_twice_in_parameters_is_counted_once(gradient: str) -> None:
    w, y0 = leaf(0.5, 0.5, 0.5), torch.ones(3, dtype=torch.float64)
    ys = solve(lambda t, y: y * w, y0, T, gradient=gradient_of(gradient), parameters=[w, w]).ys
    ys[-1].sum().backward()
    assert w.grad is not None
    assert torch.allclose(w.grad, torch.full_like(w.grad, 0.5).exp(), rtol=1e-6)


@each_replayed
def test_a_tensor_that_only_later_times_use_is_not_dropped_in_silence(gradient: str) -> None:
    early, late, y0 = leaf(1, 1, 1), leaf(2, 2, 2), torch.ones(3, dtype=torch.float64)
    solution = solve(lambda t, y: y * (early if t < 0.5 else late), y0, T, gradient=gradient_of(gradient))
    with pytest.raises(RuntimeError, match="pass all tensors whose gradients are wanted in `parameters`"):
        solution.ys.sum().backward()
    both = solve(
        lambda t, y: y * (early if t < 0.5 else late), y0, T, gradient=gradient_of(gradient), parameters=[early, late]
    )
    both.ys.sum().backward()
    assert early.grad is not None
    assert late.grad is not None


class Hiding(SmallField):
    """Uses a tensor that is no parameter, and its own parameter by way of a closure."""

    def __init__(self, evade: bool) -> None:
        super().__init__()
        self.hidden = [torch.ones(3, dtype=torch.float64, requires_grad=True)]
        bias = self.outer.bias if evade else self.hidden[0]
        self.later: Callable[[], Tensor] = lambda: bias

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(t, y) + self.later()


@each_replayed
def test_a_parameter_reached_by_a_closure_is_an_error_and_no_zero(gradient: str) -> None:
    y0 = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="by way of references made earlier"):
        solve(Hiding(evade=True), y0, T, gradient=gradient_of(gradient)).ys.sum().backward()


@each_replayed
def test_a_hidden_tensor_is_demanded(gradient: str) -> None:
    y0 = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="register them as parameters"):
        solve(Hiding(evade=False), y0, T, gradient=gradient_of(gradient)).ys.sum().backward()


@each_exact
def test_hooks_run_once_where_a_module_is_captured_and_are_refused_on_loose_tensors(gradient: str) -> None:
    net, y0 = SmallField(), torch.ones(2, 3, dtype=torch.float64)
    calls: list[Tensor] = []
    net.outer.bias.register_hook(calls.append)
    solve(lambda t, y: net(t, y), y0, T, gradient=gradient_of(gradient)).ys.sum().backward()
    assert len(calls) == 1
    w = leaf(1, 1, 1)
    w.register_hook(calls.append)
    ys = solve(lambda t, y: y * w, y0, T, gradient=gradient_of(gradient)).ys
    with pytest.raises(RuntimeError, match="has hooks, which would run at every stage"):
        ys.sum().backward()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, dtype=torch.float64)

    def ode(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (y,) = state
        return (self.norm(y),)


@each_exact
def test_running_statistics_move_once_a_use_of_the_forward_solve(gradient: str) -> None:
    norm, y0 = nn.BatchNorm1d(3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    ys = solve(lambda t, y: norm(y), y0, T, solver="euler", gradient=gradient_of(gradient)).ys
    ys.sum().backward()
    assert int(norm.num_batches_tracked) == 1, "neither the trial use nor backward moved them"


def test_running_statistics_of_a_method_over_a_tuple_move_once_a_use() -> None:
    model, y0 = Model(), torch.randn(5, 3, dtype=torch.float64)
    (ys,) = odeint_symplectic_adjoint(model.ode, (y0,), T, method="euler")
    ys.sum().backward()
    assert int(model.norm.num_batches_tracked) == 1


def test_looking_a_function_through_draws_no_random_numbers() -> None:
    drop, y0, w = nn.Dropout(0.5), torch.ones(4, 3, dtype=torch.float64), leaf(1, 1, 1)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return drop(y) * w

    results = []
    for gradient in ("backprop", "symplectic"):
        torch.manual_seed(3)
        results.append(solve(field, y0, T, solver="rk4", controller=FixedStep(0.25), gradient=gradient).ys)
    assert torch.equal(*results)


def test_backprop_takes_what_is_the_result_of_operations() -> None:
    w = leaf(0.3, 0.2, 0.1)
    c = w.sin()
    solve(lambda t, y: y * c, torch.ones(3, dtype=torch.float64), T, gradient="backprop").ys.sum().backward()
    assert w.grad is not None


@pytest.mark.parametrize("gradient", [name for name in GRADIENTS if name != "backprop"])
@pytest.mark.usefixtures("process_group")
def test_ddp_within_a_function_is_refused(gradient: str) -> None:
    net = DistributedDataParallel(SmallField())

    class Holder:
        def __init__(self) -> None:
            self.net = net

        def __call__(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(t, y)  # type: ignore[no-any-return]

    y0 = torch.ones(2, 3, dtype=torch.float64)
    for field in (lambda t, y: net(t, y), Holder()):
        with pytest.raises(TypeError, match="must not be wrapped in DistributedDataParallel"):
            solve(field, y0, T, gradient=gradient)


@settings(max_examples=30, deadline=None)
@given(
    solver=st.sampled_from(["midpoint", "heun3", "bosh3", "tsit5", "dopri8"]),
    gradient=st.sampled_from(EXACT_GRADIENTS),
    seed=st.integers(0, 10_000),
    outputs=st.integers(2, 5),
    backwards=st.booleans(),
)
def test_any_function_of_captured_tensors_has_backprops_gradient(
    solver: str, gradient: str, seed: int, outputs: int, backwards: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b, y0, weights = (torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(4))
    t = torch.linspace(0, 1, outputs, dtype=torch.float64)
    t = t.flip(0).contiguous() if backwards else t
    net = SmallField()

    def gradients(method: str) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (a, b, y0)]
        controller = IController(rtol=1e-3, atol=1e-4) if solver in ("bosh3", "tsit5", "dopri8") else FixedStep(0.2)
        ys = solve(
            lambda t, y: net(t, y) + leaves[0] + torch.sin(leaves[1] * t) + leaves[1],
            leaves[2],
            t,
            solver=solver,
            controller=controller,
            gradient=gradient_of(method),
        ).ys
        return list(torch.autograd.grad((ys * weights).sum(), [*leaves, *net.parameters()]))

    assert relative_error(gradients(gradient), gradients("backprop")) < 1e-12
