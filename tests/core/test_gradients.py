"""The exact gradients agree with backprop through the same accepted steps, to rounding."""

from __future__ import annotations

import pytest
import torch

from symadj_core import FixedStep, IController, PIController, Quadrature, gradients, solve
from tests.core.systems import (
    ADAPTIVE_SOLVERS,
    ALL_SOLVERS,
    EXACT_GRADIENTS,
    SmallField,
    controller_of,
    gradient_of,
    loss_and_gradients,
    relative_error,
    start,
    with_rate,
)


@pytest.mark.parametrize("solver", ALL_SOLVERS)
def test_every_exact_gradient_equals_backprop_in_float64(solver: str) -> None:
    expected_loss, expected, _ = loss_and_gradients("backprop", solver)
    for gradient in EXACT_GRADIENTS:
        loss, grads, _ = loss_and_gradients(gradient, solver)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-14, atol=0)
        assert relative_error(grads, expected) < 1e-14, gradient


@pytest.mark.parametrize("solver", ALL_SOLVERS)
def test_symplectic_equals_backprop_in_float32(solver: str) -> None:
    _, grads, _ = loss_and_gradients("symplectic", solver, dtype=torch.float32)
    _, expected, _ = loss_and_gradients("backprop", solver, dtype=torch.float32)
    assert relative_error(grads, expected) < 2e-6


@pytest.mark.parametrize("solver", ADAPTIVE_SOLVERS)
def test_rejected_steps_leave_no_trace_in_the_gradient(solver: str) -> None:
    controller = controller_of(solver, first_step=3.0)
    times = [0.0, 2.5]
    _, expected, _ = loss_and_gradients("backprop", solver, controller=controller, times=times)
    for gradient in EXACT_GRADIENTS:
        _, grads, stats = loss_and_gradients(gradient, solver, controller=controller, times=times)
        assert stats.rejected > 0
        assert relative_error(grads, expected) < 1e-14, gradient


@pytest.mark.parametrize("solver", ALL_SOLVERS)
@pytest.mark.parametrize("times", [[0.0, 0.02, 0.05, 0.6, 0.61, 1.3], [1.0, 0.7, 0.65, -0.4]])
def test_outputs_between_steps_are_transposed_exactly_in_either_direction(solver: str, times: list[float]) -> None:
    expected_loss, expected, _ = loss_and_gradients("backprop", solver, times=times)
    for gradient in EXACT_GRADIENTS:
        loss, grads, _ = loss_and_gradients(gradient, solver, times=times)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-14, atol=0)
        assert relative_error(grads, expected) < 1e-14, gradient


@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5", "dopri8"])
def test_a_fixed_grid_of_the_requested_times_gives_every_time_its_gradient(gradient: str, solver: str) -> None:
    times = [0.0, 0.2, 0.5, 0.9]
    _, grads, _ = loss_and_gradients(gradient, solver, controller=FixedStep(), times=times)
    _, expected, _ = loss_and_gradients("backprop", solver, controller=FixedStep(), times=times)
    assert relative_error(grads, expected) < 1e-14
    assert (grads[2] != 0).all()


def test_the_gradient_in_time_is_that_of_the_computed_map() -> None:
    """On a fixed grid of the requested times the map is smooth in t: finite differences see the same derivative."""
    _, grads, _ = loss_and_gradients("symplectic", "rk4", controller=FixedStep(), times=[0.0, 0.3, 0.8])
    step = 1e-6
    for k in range(3):
        shifted = []
        for sign in (1, -1):
            times = [0.0, 0.3, 0.8]
            times[k] += sign * step
            shifted.append(loss_and_gradients("symplectic", "rk4", controller=FixedStep(), times=times)[0])
        difference = (shifted[0] - shifted[1]) / (2 * step)
        assert float(grads[2][k]) == pytest.approx(float(difference), rel=1e-7)


@pytest.mark.parametrize("gradient", [*EXACT_GRADIENTS, "backprop"])
def test_gradients_across_a_jump_of_the_field_are_exact(gradient: str) -> None:
    def run(method: str) -> list[torch.Tensor]:
        field, y0 = SmallField(), start()

        def jumping(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return field(t, y) * torch.where(t < 0.5, 1.0, -2.0)

        solution = solve(
            jumping,
            y0,
            torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64),
            controller=IController(rtol=1e-6, atol=1e-8, jump_t=(0.5,)),
            gradient=gradient_of(method),
        )
        assert solution.stats.rejected <= 2
        return list(torch.autograd.grad(solution.ys.square().sum(), [y0, *field.parameters()]))

    expected = run("backprop")
    assert relative_error(run(gradient), expected) < 1e-14


def test_a_jump_is_met_from_both_sides_in_reverse_time_too() -> None:
    seen: list[float] = []

    def jumping(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(float(t))
        return torch.where(t < 0.5, 1.0, -2.0) * y

    y0 = torch.ones(1, dtype=torch.float64)
    controller = IController(rtol=1e-9, atol=1e-9, jump_t=(0.5,))
    forward = solve(jumping, y0, torch.tensor([0.0, 1.0], dtype=torch.float64), controller=controller)
    back = solve(jumping, forward.ys[-1], torch.tensor([1.0, 0.0], dtype=torch.float64), controller=controller)
    assert float(forward.ys[-1]) == pytest.approx(torch.e**-0.5, rel=1e-8)
    assert float(back.ys[-1]) == pytest.approx(1.0, rel=1e-8)
    assert 0.5 not in seen
    assert min(abs(s - 0.5) for s in seen) < 1e-15
    assert forward.stats.accepted + back.stats.accepted < 60


def test_the_continuous_adjoint_approaches_the_exact_gradient_as_tolerances_shrink() -> None:
    errors = []
    for rtol in (1e-3, 1e-6, 1e-9):
        controller = IController(rtol=rtol, atol=rtol)
        _, grads, _ = loss_and_gradients("adjoint", controller=controller, times=[0.0, 0.4, 1.3])
        _, expected, _ = loss_and_gradients("backprop", controller=controller, times=[0.0, 0.4, 1.3])
        errors.append(relative_error(grads, expected))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-7


def test_the_seminorm_takes_no_more_backward_steps_than_the_full_norm() -> None:
    used = {}
    for seminorm in (False, True):
        field, y0 = SmallField(), start()
        t = torch.tensor([0.0, 4.0], dtype=torch.float64)
        method = gradients.Adjoint(seminorm=seminorm)
        solution = solve(field, y0, t, controller=IController(rtol=1e-7, atol=1e-9), gradient=method)
        solution.ys[-1].square().sum().backward()
        used[seminorm] = solution.stats.nfe_backward
    assert 0 < used[True] <= used[False]


@pytest.mark.parametrize("controller", [IController(rtol=1e-4, atol=1e-5), PIController(rtol=1e-4, atol=1e-5)])
def test_error_control_on_the_quadratures_keeps_the_gradient_exact(controller: IController) -> None:
    import dataclasses

    augmented = dataclasses.replace(controller, control="augmented")
    _, grads, stats = loss_and_gradients("symplectic", controller=augmented)
    _, expected, _ = loss_and_gradients("backprop", controller=augmented)
    assert relative_error(grads, expected) < 1e-14
    _, _, plain = loss_and_gradients("symplectic", controller=controller)
    assert stats.accepted >= plain.accepted


class Counting(torch.nn.Module):
    """Counts the uses of f alone and of f with g."""

    def __init__(self) -> None:
        super().__init__()
        self.field = SmallField()
        self.alone = 0
        self.joint = 0

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.alone += 1
        return self.field(t, y)

    def rates(self, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.joint += 1
        dy = self.field(t, y)
        return dy, (dy * y).sum(-1)


def counts_of(keep: str) -> tuple[int, int, int, int, int]:
    field, y0 = Counting(), start()
    controller = IController(rtol=1e-6, atol=1e-8, first_step=0.1, max_step=0.15)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    quadrature = Quadrature(field.rates, y0.detach().new_zeros(len(y0)))
    gradient = gradients.by_name("symplectic", keep=keep)
    solution = solve(field, y0, t, controller=controller, gradient=gradient, quadrature=quadrature)
    assert solution.quadratures is not None
    assert solution.stats.rejected == 0
    forward = field.alone + field.joint
    assert solution.stats.nfe_forward == forward
    alone, joint = field.alone, field.joint
    (solution.ys[-1].sum() + solution.quadratures[-1].sum()).backward()
    assert solution.stats.nfe_backward == field.alone + field.joint - forward
    return solution.stats.accepted, alone, joint, field.alone - alone, field.joint - joint


def test_a_dopri5_step_uses_the_field_six_times_and_skips_rates_without_weight() -> None:
    steps, alone, joint, back_alone, back_joint = counts_of("stages")
    # Stage 2 has neither weight nor error weight in q, nor has the slope at the very end.
    assert alone + joint == 6 * steps + 1
    assert joint == 5 * steps
    assert back_alone + back_joint == 6 * steps
    assert back_joint == 5 * steps


def test_keeping_steps_recomputes_five_stages_without_rates() -> None:
    steps, _, _, back_alone, back_joint = counts_of("steps")
    assert back_alone + back_joint == 11 * steps
    assert back_joint == 5 * steps


def test_keeping_stages_or_steps_gives_the_same_bits() -> None:
    _, stages, one = loss_and_gradients("symplectic")
    _, steps, other = loss_and_gradients("symplectic-steps")
    assert all(torch.equal(a, b) for a, b in zip(stages, steps, strict=True))
    assert one.checkpoint_bytes > other.checkpoint_bytes


def test_float32_rounding_over_400_steps_is_below_plain_backprop() -> None:
    controller = FixedStep(0.01)
    _, truth, _ = loss_and_gradients("backprop", controller=controller, times=[0.0, 4.0])
    errors = {}
    for gradient in ("symplectic", "backprop"):
        _, grads, stats = loss_and_gradients(gradient, controller=controller, times=[0.0, 4.0], dtype=torch.float32)
        assert stats.accepted == 400
        errors[gradient] = [
            float((g.double() - r).norm() / r.norm()) for g, r in zip(grads[3:], truth[3:], strict=True)
        ]
    assert sum(errors["symplectic"]) < sum(errors["backprop"])


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="backprop"):
        gradients.by_name("magic")
    with pytest.raises(ValueError, match="keep"):
        gradients.by_name("symplectic", keep="all")
    with pytest.raises(TypeError):
        gradients.by_name("aca", keep="steps")


def test_rates_need_not_depend_on_the_state() -> None:
    field, y0 = SmallField(), start()
    quadrature = with_rate(field, y0)

    def rates(t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return field(t, y), torch.ones(len(y), dtype=y.dtype)

    t = torch.tensor([0.0, 0.7], dtype=torch.float64)
    solution = solve(field, y0, t, quadrature=Quadrature(rates, quadrature.initial))
    assert solution.quadratures is not None
    (grad,) = torch.autograd.grad(solution.quadratures[-1].sum(), quadrature.initial)
    assert solution.quadratures[-1].tolist() == pytest.approx([0.7] * len(y0))
    assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
@pytest.mark.parametrize("solver", ["heun2", "rk4", "dopri5"])
@pytest.mark.parametrize("times", [[0.0, 0.1, 0.3, 0.5, 1.0], [1.0, 0.62, 0.5, 0.2]])
def test_perturbed_grids_and_jumps_are_exact_in_either_direction_and_in_time(
    gradient: str, solver: str, times: list[float]
) -> None:
    controllers = [FixedStep(0.25, perturb=True), FixedStep(perturb=True)]
    if solver == "dopri5":
        controllers.append(IController(rtol=1e-5, atol=1e-6, jump_t=(0.55, times[0])))  # type: ignore[arg-type]
    for controller in controllers:
        _, grads, _ = loss_and_gradients(gradient, solver, controller=controller, times=times)
        _, expected, _ = loss_and_gradients("backprop", solver, controller=controller, times=times)
        assert relative_error(grads, expected) < 1e-14
