"""Where a solve ends, breaks off or meets what it cannot use: told at once, and told rightly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symadj_core import (
    FixedStep,
    IController,
    PIController,
    Quadrature,
    SolverError,
    Status,
    odeint,
    odeint_adjoint,
    odeint_event,
    solve,
)
from symadj_core.gradients import Symplectic
from tests.core.systems import EXACT_GRADIENTS, SmallField, gradient_of, relative_error

T = torch.tensor([0.0, 1.0], dtype=torch.float64)
REPLAYED = [*EXACT_GRADIENTS, "adjoint"]


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


@pytest.mark.parametrize("solver", ["bosh3", "dopri5", "dopri8"])
@pytest.mark.parametrize("kind", [IController, PIController])
@pytest.mark.parametrize("start", [0.0, 1.0, -10.0, 1000.0])
def test_a_solution_that_runs_to_infinity_ends_the_solve(solver: str, kind: Any, start: float) -> None:
    # y = 1 / (1 - 5 (t - start)): infinite at start + 0.2. Near it a rejected step is as small as time resolves.
    uses = 0

    def blow_up(t: Tensor, y: Tensor) -> Tensor:
        nonlocal uses
        uses += 1
        assert uses < 20_000, "rejected for ever"
        return 5 * y**2

    with torch.no_grad(), pytest.raises(SolverError) as caught:
        solve(blow_up, ones(3), T + start, solver=solver, controller=kind())
    assert caught.value.reason in (Status.UNDERFLOW_IN_DT, Status.NON_FINITE)
    assert caught.value.t == pytest.approx(start + 0.2, abs=1e-3)


@pytest.mark.parametrize("options", [{"safety": 2.0}, {"min_factor": 1.5}, {"max_factor": 0.5}, {"max_steps": 0}])
def test_a_controller_that_could_not_end_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        IController(**options)
    with pytest.raises(ValueError, match="min_step=1"):
        IController(min_step=1.0, max_step=0.5)


def test_a_jump_at_the_end_is_approached_from_within() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t < 0.5, 1.0, 100.0) * torch.ones_like(y)

    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    for solver in ("bosh3", "dopri5"):
        solution = solve(field, torch.zeros(1).double(), t, solver=solver, controller=IController(jump_t=(0.5,)))
        assert float(solution.ys[-1]) == pytest.approx(0.5, abs=1e-14)
        assert solution.stats.rejected == 0


@pytest.mark.parametrize("solver", ["bosh3", "tsit5", "fehlberg2", "adaptive_heun", "dopri5"])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_time_of_an_output_at_a_jump_has_its_gradient_with_a_quadrature(solver: str, backwards: bool) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y * (1 + t) * torch.where(t < 0.5, 1.0, 3.0)

    def gradients(method: str) -> list[Tensor]:
        t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
        t = (t.flip(0) if backwards else t).contiguous().requires_grad_()
        quadrature = Quadrature(lambda t, y: (field(t, y), y.square().sum()), torch.zeros((), dtype=torch.float64))
        y0 = ones(2).requires_grad_()
        controller = IController(rtol=1e-4, atol=1e-5, jump_t=(0.5,))
        solution = solve(
            field, y0, t, solver=solver, controller=controller, gradient=gradient_of(method), quadrature=quadrature
        )
        assert solution.quadratures is not None
        at = 1 if backwards else 2
        return list(torch.autograd.grad(2 * solution.quadratures[at] + solution.ys[1].sum(), [t, y0]))

    for method in EXACT_GRADIENTS:
        assert relative_error(gradients(method), gradients("backprop")) < 1e-12


def test_slopes_of_low_precision_are_summed_in_the_states() -> None:
    slope = (1 + torch.rand(100, generator=torch.Generator().manual_seed(0))).bfloat16()
    with torch.no_grad():
        solution = solve(lambda t, y: slope, torch.zeros(100), T.float())
    assert relative_error([solution.ys[-1]], [slope.float()]) < 1e-6
    assert solution.stats.rejected == 0
    wide = solve(lambda t, y: y.double(), torch.ones(3), T.float())
    assert wide.ys.dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "error", "words"),
    [
        (lambda t, y: y[:, 0], ValueError, r"shape \[2\] for a state of shape \[2, 3\]"),
        (lambda t, y: (y,), TypeError, "returned a tuple"),
        (lambda t, y: 1.0, TypeError, "returned a float"),
        (lambda t, y: None, TypeError, "returned a NoneType"),
        (lambda t, y: y * 1j, TypeError, "make y0 complex"),
    ],
)
def test_a_field_that_returns_no_slope_is_told_so(
    field: Callable[..., Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        solve(field, ones(2, 3), T)


def test_a_field_that_overwrites_what_it_returned_is_told_so() -> None:
    memory = torch.empty(3, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(RuntimeError, match="overwrote the tensor that it had returned"):
        solve(lambda t, y: torch.mul(y, -1.0, out=memory), ones(3), T)


def test_an_infinite_field_is_non_finite_and_no_underflow() -> None:
    solution = solve(lambda t, y: y * math.inf, ones(3), T, throw=False)
    assert solution.status == Status.NON_FINITE


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_a_quadrature_that_is_not_a_number_is_no_success(solver: str) -> None:
    quadrature = Quadrature(lambda t, y: (-y, y.sum() * math.nan), torch.zeros((), dtype=torch.float64))
    controller = FixedStep(0.1) if solver == "rk4" else None
    solution = solve(
        lambda t, y: -y, ones(3), T, solver=solver, controller=controller, quadrature=quadrature, throw=False
    )
    assert solution.status == Status.NON_FINITE


def test_fixed_steps_name_the_first_requested_time_that_is_not_finite() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(SolverError) as caught:
        solve(lambda t, y: torch.where(t > 0.45, torch.full_like(y, math.inf), y), ones(3), t, solver="euler")
    assert caught.value.t == pytest.approx(0.6)


def test_an_empty_batch_is_solved_in_no_more_steps_than_another() -> None:
    solution = solve(SmallField(), torch.zeros(0, 3, dtype=torch.float64, requires_grad=True), T)
    assert solution.ys.shape == (2, 0, 3)
    solution.ys.sum().backward()


def test_lazy_parameters_are_refused_before_the_solve() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.LazyLinear(3)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.linear(y)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="use it once before the solve"):
        solve(Lazy(), torch.ones(2, 3), T.float())


@pytest.mark.parametrize("argument", [5, Symplectic])
def test_a_gradient_that_is_none_is_refused(argument: Any) -> None:
    with pytest.raises(TypeError, match="gradient must be a name or a gradient method"):
        solve(SmallField(), ones(2, 3), T, gradient=argument)


def test_a_controller_may_be_named() -> None:
    named = solve(SmallField(), ones(2, 3), T, controller="pi")
    assert torch.equal(named.ys, solve(SmallField(), ones(2, 3), T, controller=PIController()).ys)


@pytest.mark.parametrize("grid", [[0.0, 0.7, 0.3, 1.0], [0.0, 0.5, 0.5, 1.0], [0.0, 0.5]])
def test_a_grid_that_does_not_run_straight_is_refused(grid: list[float]) -> None:
    with pytest.raises(ValueError, match="the grid must"):
        solve(SmallField(), ones(2, 3), T, solver="rk4", controller=FixedStep(grid=lambda times: grid))


@pytest.mark.parametrize("end", [0.3, 0.6, 1.2])
def test_times_of_float32_get_no_sliver_of_a_step(end: float) -> None:
    solution = solve(SmallField(), ones(2, 3), torch.tensor([0.0, end]), solver="rk4", controller=FixedStep(0.1))
    assert solution.stats.accepted == round(end / 0.1)


def test_no_step_is_longer_than_max_step() -> None:
    t = torch.tensor([0.0, 1.0009], dtype=torch.float64)
    solution = solve(SmallField(), ones(2, 3), t, controller=IController(max_step=0.1, first_step=0.1))
    assert solution.stats.dt_max <= 0.1 + 1e-15
    assert solution.stats.dt_min > 0.04, "and no sliver is left"


@pytest.mark.parametrize("gradient", REPLAYED)
@pytest.mark.parametrize("what", ["frozen", "buffer", "mode"])
def test_what_backward_needs_unchanged_is_looked_after(gradient: str, what: str) -> None:
    field = SmallField()
    field.register_buffer("scale", ones(3))
    field.outer.bias.requires_grad_(False)
    y0 = ones(2, 3).requires_grad_()
    ys = solve(field, y0, T, gradient=gradient_of(gradient)).ys
    with torch.no_grad():
        if what == "frozen":
            field.outer.bias.mul_(2)
        elif what == "buffer":
            field.scale = 2 * ones(3)
        else:
            field.eval()
    with pytest.raises(RuntimeError, match="between the forward solve and backward"):
        ys.sum().backward()


@pytest.mark.parametrize("gradient", REPLAYED)
def test_a_counter_of_the_fields_own_may_move_between_two_solves(gradient: str) -> None:
    class Counting(SmallField):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("uses", torch.tensor(0.0))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.uses += 1
            return super().forward(t, y)

    field, y0 = Counting(), ones(2, 3).requires_grad_()
    first = solve(field, y0, T, gradient=gradient_of(gradient)).ys
    second = solve(field, y0, T, gradient=gradient_of(gradient)).ys
    (first + second).sum().backward()


@pytest.mark.parametrize("gradient", REPLAYED)
def test_batched_and_forward_mode_derivatives_are_refused_with_a_way_out(gradient: str) -> None:
    y0 = ones(2, 3).requires_grad_()
    ys = solve(SmallField(), y0, T, gradient=gradient_of(gradient)).ys
    with pytest.raises(RuntimeError, match="use the gradient 'backprop'"):
        torch.autograd.grad(ys, y0, torch.ones(4, *ys.shape, dtype=ys.dtype), is_grads_batched=True)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(y0, ones(2, 3))
        with pytest.raises(RuntimeError, match="use the gradient 'backprop'"):
            solve(SmallField(), dual, T, gradient=gradient_of(gradient))


def test_a_field_over_batched_weights_is_refused_under_vmap() -> None:
    y0 = ones(3)

    def last(w: Tensor) -> Tensor:
        return solve(lambda t, y: y * w, y0, T, gradient="backprop").ys[-1]

    with pytest.raises(RuntimeError, match="batch the state"):
        torch.func.vmap(last)(ones(4, 3))


def test_complex_weights_of_a_real_field_have_their_gradient_in_the_continuous_adjoint() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(3, 3, generator=generator, dtype=torch.complex128)

    def gradient(method: str) -> Tensor:
        w = weights.clone().requires_grad_()
        ys = solve(
            lambda t, y: (w @ y.to(w.dtype)).imag,
            ones(3),
            T,
            gradient=method,
            controller=IController(rtol=1e-9, atol=1e-10),
        ).ys
        (grad,) = torch.autograd.grad(ys[-1].sum(), w)
        return grad

    assert relative_error([torch.view_as_real(gradient("adjoint"))], [torch.view_as_real(gradient("backprop"))]) < 1e-6


def test_a_tolerance_for_each_entry_needs_one_number_for_the_backward_solve() -> None:
    y0 = ones(3).requires_grad_()
    field = nn.Linear(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="adjoint_rtol"):
        odeint_adjoint(lambda t, y: field(y), y0, T, rtol=torch.full((3,), 1e-5, dtype=torch.float64))


class TestEvents:
    """torchdiffeq's behaviour at the edges."""

    def test_an_event_that_is_there_at_the_start_is_the_start(self) -> None:
        t, ys = odeint(lambda t, y: y, ones(1), T, event_fn=lambda t, y: y[0] - 1)
        assert float(t) == 0.0
        assert torch.equal(ys, ones(2, 1))

    def test_fixed_steps_find_an_event_with_a_step_size(self) -> None:
        def event(t: Tensor, y: Tensor) -> Tensor:
            return y[0] - 2

        with torch.no_grad():
            t, _ = odeint(
                lambda t, y: y, ones(1), T, method="rk4", options={"step_size": 0.01, "interp": "cubic"}, event_fn=event
            )
            assert float(t) == pytest.approx(math.log(2), abs=1e-6)
            with pytest.raises(ValueError, match="need step_size"):
                odeint(lambda t, y: y, ones(1), T, method="rk4", event_fn=event)

    def test_an_event_function_that_is_not_a_number_is_an_error(self) -> None:
        with torch.no_grad(), pytest.raises(ValueError, match="the event function is NaN"):
            odeint(lambda t, y: y, ones(1), T, event_fn=lambda t, y: (1.5 - y[0]).sqrt() + 1)

    def test_nothing_is_kept_under_no_grad(self) -> None:
        level = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            t, ys = odeint_event(
                lambda t, y: y, ones(1), torch.tensor(0.0).double(), event_fn=lambda t, y: y[0] - level
            )
        assert not t.requires_grad
        assert not ys.requires_grad

    def test_a_field_that_is_not_finite_beyond_the_event_does_no_harm(self) -> None:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return torch.where(y > 1.001, torch.full_like(y, math.nan), y)

        with torch.no_grad():
            t, _ = odeint(
                field, ones(1), T, event_fn=lambda t, y: y[0] - 1.0005, options={"first_step": torch.tensor(5e-3)}
            )
        assert float(t) == pytest.approx(math.log(1.0005), rel=1e-6)


def test_callbacks_are_told_the_size_of_a_step_in_reverse_time_too() -> None:
    class Watched(SmallField):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[float] = []

        def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
            self.sizes.append(float(dt))

    field = Watched()
    odeint(field, ones(2, 3), T.flip(0))
    assert field.sizes
    assert min(field.sizes) > 0
