"""Numbers that a dtype can't hold: right all the same, or warned of with what would do."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symadj_core import SolverError, odeint, odeint_dense, odeint_event, solve
from symadj_core.gradients import GRADIENTS
from symadj_core.solvers.controller import CONTROLLERS, FixedStep, IController
from symadj_core.solvers.system import Quadrature
from symadj_core.solvers.tableaus import TABLEAUS
from tests.core.systems import relative_error

HALVES = [torch.bfloat16, torch.float16]
each_half = pytest.mark.parametrize("dtype", HALVES)
each_gradient = pytest.mark.parametrize("gradient", list(GRADIENTS))


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def span(start: float, end: float) -> Tensor:
    return torch.tensor([start, end], dtype=torch.float64)


@each_half
@pytest.mark.parametrize("solver", list(TABLEAUS))
def test_half_precision_loses_no_increments(dtype: torch.dtype, solver: str) -> None:
    adaptive = TABLEAUS[solver].error is not None
    # A step of a thousandth changes the state by less than bfloat16 can tell from nothing.
    controller: Any = IController(rtol=1e-3, atol=1e-3) if adaptive else FixedStep(0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ys = solve(decay, torch.ones(4, dtype=dtype), span(0, 1), solver=solver, controller=controller).ys
    right = solve(decay, torch.ones(4, dtype=torch.float64), span(0, 1), solver=solver, controller=controller).ys
    assert ys.dtype == dtype
    torch.testing.assert_close(ys.double(), right, rtol=0.01, atol=0.0)


@each_half
def test_default_tolerances_in_half_precision_are_right_and_warned_of_with_what_would_do(dtype: torch.dtype) -> None:
    for function in (lambda: solve(decay, torch.ones(1, dtype=dtype), span(0, 1)).ys, lambda: by_odeint(dtype)):
        with pytest.warns(RuntimeWarning, match=rf"take an rtol of at least {torch.finfo(dtype).eps:.1e}"):
            ys = function()
        assert float(ys[-1]) == pytest.approx(math.exp(-1), rel=torch.finfo(dtype).eps)


def by_odeint(dtype: torch.dtype) -> Tensor:
    ys: Tensor = odeint(decay, torch.ones(1, dtype=dtype), span(0, 1))
    return ys


class HalfField(nn.Module):
    """A module whose weights take no other precision than theirs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2, dtype=dtype)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(torch.cat([y, t.expand(*y.shape[:-1], 1)], -1)))


@each_gradient
@each_half
def test_a_field_in_half_precision_has_its_gradients(gradient: str, dtype: torch.dtype) -> None:
    field, y0 = HalfField(dtype), torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    y0.requires_grad_()
    controller = IController(rtol=1e-2, atol=1e-2)
    ys = solve(field, y0, span(0, 1), gradient=gradient, controller=controller).ys
    found = torch.autograd.grad(ys[-1].float().square().sum(), [y0, *field.parameters()])
    fine = HalfField(dtype).double()
    start = y0.detach().double().requires_grad_()
    right = torch.autograd.grad(
        solve(fine, start, span(0, 1), gradient="backprop").ys[-1].square().sum(), [start, *fine.parameters()]
    )
    assert all(x.dtype == dtype for x in found)
    assert relative_error([x.double() for x in found], list(right)) < 0.05


@each_half
def test_quadratures_of_half_precision_lose_no_increments(dtype: torch.dtype) -> None:
    quadrature = Quadrature(lambda t, y: (-y, y), torch.zeros(1, dtype=dtype))
    solution = solve(
        decay, torch.ones(1, dtype=dtype), span(0, 1), solver="rk4", controller=FixedStep(0.001), quadrature=quadrature
    )
    assert solution.quadratures is not None
    assert solution.quadratures.dtype == dtype
    assert float(solution.quadratures[-1]) == pytest.approx(1 - math.exp(-1), rel=0.02)


@each_half
def test_events_and_dense_output_of_half_precision(dtype: torch.dtype) -> None:
    y0 = torch.ones(1, dtype=dtype)
    tolerances = {"rtol": 1e-2, "atol": 1e-2}
    t, ys = odeint_event(decay, y0, torch.tensor(0.0), event_fn=lambda t, y: y - 0.5, **tolerances)
    assert float(t) == pytest.approx(math.log(2), rel=0.02)
    assert ys.dtype == dtype
    dense = odeint_dense(decay, y0, torch.tensor(0.0), torch.tensor(1.0), **tolerances)(torch.tensor([0.5, 1.0]))
    assert dense.dtype == dtype
    assert float(dense[0]) == pytest.approx(math.exp(-0.5), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1e-15, 1e-30])
def test_a_span_of_next_to_nothing_changes_next_to_nothing(dtype: torch.dtype, length: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ys = solve(decay, torch.ones(2, dtype=dtype), span(0, length)).ys
    torch.testing.assert_close(ys[-1], torch.ones(2, dtype=dtype))


def test_a_state_of_any_size_has_an_error_norm() -> None:
    # Squares of float32 numbers above 1e19 overflow, and so did the norm of errors in units of a tiny tolerance.
    for size, atol in ((1e30, 1e-9), (1e37, 1e-6), (1.0, 1e-40)):
        y0 = torch.tensor([size], dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ys = solve(decay, y0, span(0, 1), controller=IController(rtol=1e-5, atol=atol)).ys
        assert float(ys[-1]) == pytest.approx(size * math.exp(-1), rel=1e-3)


@pytest.mark.parametrize("controller", [name for name in CONTROLLERS if name != "fixed"])
def test_an_entry_that_stays_at_zero_has_no_error_under_a_tolerance_of_zero(controller: str) -> None:
    settings = CONTROLLERS.make(controller, rtol=1e-6, atol=0.0)
    ys = solve(decay, torch.tensor([1.0, 0.0], dtype=torch.float64), span(0, 1), controller=settings).ys
    torch.testing.assert_close(ys[-1], torch.tensor([math.exp(-1), 0.0], dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("controller", "reason"),
    [(IController(rtol=1e-6, atol=1e-6), "underflow_in_dt"), (FixedStep(0.25), "overflow")],
)
def test_non_finite_is_said_of_fields_that_were_not_finite_alone(controller: Any, reason: str) -> None:
    def finite(t: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, 3e38)

    with pytest.raises(SolverError) as caught:
        solve(
            finite,
            torch.zeros(1),
            span(0, 1.25),
            solver="dopri5" if reason[0] == "u" else "euler",
            controller=controller,
        )
    assert caught.value.reason == reason
    assert "returned NaN or infinity" not in str(caught.value)


def test_tolerances_below_the_rounding_of_float32_are_warned_of_and_its_defaults_are_not() -> None:
    y0 = torch.ones(3)
    with pytest.warns(RuntimeWarning, match=r"rtol=1e-12, atol=1e-12: float32 can't tell .* at least 1.2e-07"):
        odeint(decay, y0, span(0, 1), rtol=1e-12, atol=1e-12)
    with pytest.warns(RuntimeWarning, match="rtol=0, atol for each entry"):
        solve(decay, y0, span(0, 1), controller=IController(rtol=0.0, atol=torch.full((3,), 1e-12)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeint(decay, y0, span(0, 1))
        odeint(decay, torch.zeros(3), span(0, 1))
        solve(decay, 1e6 * y0, span(0, 1))


def test_fixed_steps_whose_increments_vanish_are_warned_of() -> None:
    def slow(t: Tensor, y: Tensor) -> Tensor:
        return -1e-4 * y

    with pytest.warns(RuntimeWarning, match=r"the 2000 steps of 0.0005 change the state by less than torch.float32"):
        solve(slow, torch.ones(1), span(0, 1), solver="euler", controller=FixedStep(0.0005))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(slow, torch.ones(1), span(0, 1), solver="euler", controller=FixedStep(0.1))
        # At rest there is nothing to lose.
        solve(lambda t, y: 0 * y, torch.ones(1), span(0, 1), solver="euler", controller=FixedStep(0.0005))


def test_steps_that_the_times_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match=r"step_size 1e-12 is below what times near 1e\+06 can be told apart by"):
        solve(decay, torch.ones(1), span(1e6, 1e6 + 1), solver="euler", controller=FixedStep(1e-12))


class TimeOfDay(nn.Module):
    """A field that needs the digits of the time."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(10.0))
        self.linear = nn.Linear(2, 1) if joined else None

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.linear is not None:
            return self.linear(torch.cat([y, torch.remainder(t, 10.0).expand(*y.shape[:-1], 1)], -1))
        return torch.cos(self.weight.double() * t).to(y.dtype) * torch.ones_like(y)


@each_gradient
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("controller", [FixedStep(0.01), IController(rtol=1e-2, atol=1e-4)])
def test_times_far_from_zero_reach_the_field_with_their_digits(
    gradient: str, dtype: torch.dtype, controller: Any
) -> None:
    far, y0 = 1e6, torch.zeros(1, 1, dtype=dtype, requires_grad=True)
    field = TimeOfDay(joined=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ys = solve(field, y0, span(far, far + 1), controller=controller, gradient=gradient).ys
    right = (math.sin(10 * (far + 1)) - math.sin(10 * far)) / 10
    assert float(ys[-1]) == pytest.approx(right, abs=2e-3)
    (slope,) = torch.autograd.grad(ys[-1].sum(), field.weight)
    ends = [(t * math.cos(10 * t) / 10 - math.sin(10 * t) / 100) for t in (far, far + 1)]
    assert float(slope) == pytest.approx(ends[1] - ends[0], rel=0.05)


@each_gradient
def test_a_field_that_takes_coarse_times_alone_is_warned_of(gradient: str) -> None:
    field, y0 = TimeOfDay(joined=True), torch.zeros(1, 1, requires_grad=True)
    with pytest.warns(RuntimeWarning, match=r"only in torch.float32, in which times near 1e\+06 are 0.062 apart"):
        ys = solve(field, y0, span(1e6, 1e6 + 1), gradient=gradient, solver="rk4", controller=FixedStep(0.25)).ys
    torch.autograd.grad(ys[-1].sum(), [y0, *[p for p in field.parameters() if p is not field.weight]])


def test_a_state_that_half_precision_cannot_hold_is_refused() -> None:
    def steep(t: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, 60000.0)

    y0 = torch.zeros(1, dtype=torch.float16)
    for options in ({}, {"method": "rk4"}):
        with pytest.raises(SolverError, match="left the range of its dtype") as caught:
            odeint(steep, y0, span(0, 2), **options)
        assert caught.value.reason == "overflow"
    assert float(odeint(steep, y0, span(0, 1))[-1]) == pytest.approx(60000, rel=1e-3)
