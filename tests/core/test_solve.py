from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from symadj_core import FixedStep, IController, PIController, RankReducedNorm, SolverError, Status, controllers, solve
from symadj_core.solvers.controller import rms_norm
from tests.core.reads import HostReads
from tests.core.systems import ADAPTIVE_SOLVERS, ALL_SOLVERS, SmallField, gradient_of, start, with_rate


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def span(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


@pytest.mark.parametrize("solver", ADAPTIVE_SOLVERS)
def test_adaptive_solves_meet_their_tolerance(solver: str) -> None:
    controller = IController(rtol=1e-6, atol=1e-8)
    solution = solve(decay, torch.ones(2, dtype=torch.float64), span(0, 1, 2), solver=solver, controller=controller)
    assert solution.status is Status.SUCCESS
    torch.testing.assert_close(solution.ys[:, 0], span(1.0, math.exp(-1), math.exp(-2)), rtol=1e-3, atol=0)
    assert torch.equal(solution.ts, span(0, 1, 2))


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(-2, 2),
    end=st.floats(0.1, 3),
    sign=st.sampled_from([-1, 1]),
    solver=st.sampled_from(ADAPTIVE_SOLVERS),
)
def test_a_linear_field_is_integrated_whatever_rate_and_direction(
    rate: float, end: float, sign: int, solver: str
) -> None:
    t = span(0.5, 0.5 + sign * end)
    controller = IController(rtol=1e-5, atol=1e-7)
    solution = solve(lambda t, y: rate * y, torch.ones(1, dtype=torch.float64), t, solver=solver, controller=controller)
    assert float(solution.ys[-1]) == pytest.approx(math.exp(rate * sign * end), rel=2e-2)


@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(0.01, 0.99), gradient=st.sampled_from(["aca", "symplectic", "backprop"]))
def test_asking_for_an_interior_time_does_not_move_the_end(fraction: float, gradient: str) -> None:
    field, y0 = SmallField(), start()
    controller = IController(rtol=1e-4, atol=1e-6)
    plain = solve(field, y0, span(0, 2), controller=controller, gradient=gradient)
    asked = solve(field, y0, span(0, 2 * fraction, 2), controller=controller, gradient=gradient)
    assert torch.equal(plain.ys[-1], asked.ys[-1])
    assert asked.stats.accepted == plain.stats.accepted


def test_many_output_times_cost_no_more_steps_than_two() -> None:
    field, y0 = SmallField(), start()
    few = solve(field, y0, span(0, 2))
    many = solve(field, y0, torch.linspace(0, 2, 101, dtype=torch.float64))
    assert few.stats.nfe_forward == many.stats.nfe_forward
    assert len(many.ys) == 101


def test_the_grid_of_fixed_steps_is_the_step_size_given() -> None:
    times = torch.tensor([0.0, 1.0])
    with torch.no_grad():
        solution = solve(decay, torch.ones(1), times, solver="rk4", controller=FixedStep(0.1))
    assert solution.stats.accepted == 10
    assert solution.stats.nfe_forward == 40
    looked_through = solve(decay, torch.ones(1), times, solver="rk4", controller=FixedStep(0.1))
    assert looked_through.stats.nfe_forward == 41, "one trial use finds what a plain function depends on"
    assert solution.stats.dt_max == pytest.approx(0.1)


def test_a_custom_grid_is_used_and_checked() -> None:
    grid = FixedStep(grid=lambda times: [times[0], 0.3, times[-1]])
    assert solve(decay, torch.ones(1), torch.tensor([0.0, 1.0]), solver="rk4", controller=grid).stats.accepted == 2
    short = FixedStep(grid=lambda times: [times[0], 0.3])
    with pytest.raises(ValueError, match="grid"):
        solve(decay, torch.ones(1), torch.tensor([0.0, 1.0]), solver="rk4", controller=short)


@pytest.mark.parametrize("kind", [IController, PIController])
def test_bounds_of_the_step_size_are_kept(kind: type[IController] | type[PIController]) -> None:
    controller = kind(rtol=1e-3, atol=1e-3, first_step=0.05, max_step=0.2, step_t=(0.33,))
    ends: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        ends.append(float(t))
        return -y

    solution = solve(field, torch.ones(1, dtype=torch.float64), span(0, 1), controller=controller)
    assert solution.stats.dt_max <= 0.2 * 1.02
    assert 0.33 in ends
    assert solution.stats.dt_min <= 0.05


@pytest.mark.usefixtures("process_group")
def test_the_rank_reduced_norm_is_the_norm_of_one_rank_alone() -> None:
    parts = [torch.arange(5.0), torch.ones(3)]
    assert float(RankReducedNorm()(parts)) == pytest.approx(float(rms_norm(parts)))


def test_the_root_mean_square_norm_is_what_it_is_called() -> None:
    assert float(rms_norm([torch.tensor([3.0, -4.0]), torch.zeros(2)])) == pytest.approx(2.5)


def exploding(t: Tensor, y: Tensor) -> Tensor:
    return y**2


FAILURES = [
    (exploding, 1.0, IController(rtol=1e-6, atol=1e-6, min_step=1e-4), "dopri5", "underflow_in_dt"),
    (decay, 1.0, IController(rtol=1e-9, atol=1e-9, max_steps=5), "dopri5", "max_steps"),
    (decay, math.nan, IController(), "dopri5", "non_finite"),
    (lambda t, y: torch.where(t > 0.5, torch.nan, 1.0) * y, 1.0, IController(first_step=0.1), "dopri5", "non_finite"),
    (lambda t, y: y * torch.inf, 1.0, FixedStep(0.1), "rk4", "non_finite"),
]


@pytest.mark.parametrize(("field", "y0", "controller", "solver", "reason"), FAILURES)
def test_a_failed_solve_says_why_and_where(field: Any, y0: float, controller: Any, solver: str, reason: str) -> None:
    with pytest.raises(SolverError, match=reason) as caught:
        solve(field, torch.tensor([y0], dtype=torch.float64), span(0, 2), solver=solver, controller=controller)
    error = caught.value
    assert error.reason == reason
    assert 0 <= error.t <= 2
    assert error.step >= 0
    assert "lower" in str(error) or "loosen" in str(error)


@pytest.mark.parametrize(("field", "y0", "controller", "solver", "reason"), FAILURES)
def test_without_throw_the_status_is_returned_and_what_is_missing_is_nan(
    field: Any, y0: float, controller: Any, solver: str, reason: str
) -> None:
    state = torch.tensor([y0], dtype=torch.float64, requires_grad=True)
    solution = solve(field, state, span(0, 2), solver=solver, controller=controller, throw=False)
    assert solution.status.value == reason
    assert solution.ys.shape == (2, 1)
    assert not math.isfinite(float(solution.ys[-1]))
    assert not solution.ys.requires_grad


@pytest.mark.parametrize("gradient", ["backprop", "onecheckpoint", "aca", "symplectic", "symplectic-steps"])
@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_the_device_is_read_once_an_attempted_step_and_never_in_backward(gradient: str, solver: str) -> None:
    field, y0 = SmallField(), start()
    controller = IController(rtol=1e-6, atol=1e-8, first_step=0.5) if solver == "dopri5" else FixedStep(0.1)
    t = span(0, 0.4, 1)
    # The requested times are read once, as one list, before the first step.
    with HostReads() as reads:
        before = reads.count
        t.tolist()
        reading_times = reads.count - before
        reads.count = 0
        solution = solve(
            field,
            y0,
            t,
            solver=solver,
            controller=controller,
            gradient=gradient_of(gradient),
            quadrature=with_rate(field, y0),
        )
        attempts = solution.stats.accepted + solution.stats.rejected
        assert reads.count - reading_times <= attempts
        reads.count = 0
        solution.ys.sum().backward()
        assert reads.count == 0


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"t": torch.tensor([0.0])}, ValueError, "two times"),
        ({"t": torch.tensor([0.0, 1.0, 0.5])}, ValueError, "strictly"),
        ({"t": torch.tensor([0.0, torch.nan])}, ValueError, "strictly"),
        ({"t": torch.tensor([0.0, torch.inf])}, ValueError, "t.0. = 0 is followed by inf"),
        ({"t": torch.tensor([0.0, 1.0, 1.0])}, ValueError, "t.1. = 1 is followed by 1"),
        ({"t": torch.tensor(1.0)}, ValueError, "it is a single time"),
        ({"t": 1.0}, ValueError, "it is a single time"),
        ({"t": torch.zeros(2, 2)}, ValueError, r"it is of shape \[2, 2\]"),
        ({"t": torch.tensor([0j, 1j])}, TypeError, "real numbers, not torch.complex64"),
        ({"t": "now"}, TypeError, "a list or an array of numbers, not 'now'"),
        ({"y0": torch.tensor([1, 2])}, TypeError, "y0 must be .* not a tensor of torch.int64"),
        ({"y0": 1.0}, TypeError, "y0 must be .* not a float"),
        ({"solver": "rk4", "controller": IController()}, ValueError, "FixedStep"),
        ({"solver": "nothing"}, ValueError, "unknown solver"),
        ({"gradient": "nothing"}, ValueError, "unknown gradient"),
        ({"rtol": 1e-3}, TypeError, r"solve has no option 'rtol', its controller has: controller=IController\(rtol="),
        ({"tolerance": 1e-3}, TypeError, "solve has no option 'tolerance'$"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    full = {"y0": torch.ones(1), "t": torch.tensor([0.0, 1.0]), **arguments}
    with pytest.raises(error, match=match):
        solve(decay, **full)


@pytest.mark.parametrize(
    "t",
    [
        [0, 1, 2],
        (0.0, 1.0, 2.0),
        torch.tensor([0, 1, 2]),
        np.array([0, 1, 2]),
        [torch.tensor(0.0), torch.tensor(1.0), 2.0],
    ],
)
def test_times_may_be_given_as_numbers(t: Any) -> None:
    solution = solve(lambda t, y: -y, torch.ones(1, dtype=torch.float64), t)
    torch.testing.assert_close(solution.ys[:, 0], torch.exp(-torch.arange(3.0).double()), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fixed", {"step_size": -1.0}),
        ("fixed", {"step_size": 1.0, "grid": list}),
        ("i", {"rtol": -1.0}),
        ("i", {"rtol": 0.0, "atol": 0.0}),
        ("pi", {"first_step": 0.0}),
        ("i", {"control": "everything"}),
        ("magic", {}),
    ],
)
def test_settings_of_controllers_are_checked(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|not both|unknown"):
        controllers.by_name(name, **options)


@pytest.mark.parametrize("solver", ALL_SOLVERS)
def test_nothing_is_kept_without_gradients(solver: str) -> None:
    field, y0 = SmallField(), start()
    with torch.no_grad():
        solution = solve(field, y0, span(0, 1), solver=solver)
    assert not solution.ys.requires_grad
    assert solution.stats.checkpoint_bytes == 0


def test_parameters_of_a_plain_function_are_found() -> None:
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    solution = solve(lambda t, y: -weight * y, torch.ones(1, dtype=torch.float64), span(0, 1))
    solution.ys[-1].sum().backward()
    assert weight.grad is not None
    assert float(weight.grad) == pytest.approx(-math.exp(-0.5), rel=1e-4)


def test_a_captured_result_of_other_operations_must_be_passed_and_then_has_its_gradient() -> None:
    leaf = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    rate = leaf * 2
    y0 = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="parameters"):
        solve(lambda t, y: -rate * y, y0, span(0, 1))
    solve(lambda t, y: -rate * y, y0, span(0, 1), parameters=[rate]).ys[-1].sum().backward()
    assert leaf.grad is not None
    assert float(leaf.grad) == pytest.approx(-2 * math.exp(-0.5), rel=1e-4)


def test_solving_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        field, y0 = SmallField(), start()
        solve(field, y0, span(0, 0.5, 1)).ys.sum().backward()


def test_a_solver_error_survives_the_way_between_processes() -> None:
    error = SolverError(Status.MAX_STEPS, t=0.5, dt=1e-3, step=7)
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, SolverError)
    assert (copy.reason, copy.t, copy.dt, copy.step, str(copy)) == ("max_steps", 0.5, 1e-3, 7, str(error))
