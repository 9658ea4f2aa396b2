from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symadj_core import FixedStep, gradients, solve
from symadj_core.gradients.keep import Binomial, Budget, Stages, Steps, parse, split_point
from symadj_core.memory import LiveTensorMeter
from tests.core.systems import SmallField, relative_error, start

STATE = start().nbytes


@cache
def fewest(steps: int, free: int) -> int:
    """Steps to take again, at least, to reverse so many with so many free places, by exhaustive search."""
    if steps == 1:
        return 0
    if free == 0:
        return steps * (steps - 1) // 2
    return min(i + fewest(steps - i, free - 1) + fewest(i, free) for i in range(1, steps))


def taken(steps: int, free: int) -> int:
    if steps == 1 or free == 0:
        return fewest(steps, free)
    i = split_point(steps, free)
    assert 1 <= i < steps
    return i + taken(steps - i, free - 1) + taken(i, free)


@pytest.mark.parametrize("free", [1, 2, 3, 7])
def test_the_schedule_takes_as_few_steps_as_any(free: int) -> None:
    for steps in range(2, 60):
        assert taken(steps, free) == fewest(steps, free)


def solved(keep: str, steps: int, times: int = 2) -> tuple[list[torch.Tensor], int, int]:
    """Gradients, bytes kept, and uses of the field in backward."""
    field, y0 = SmallField(), start()
    t = torch.linspace(0, 1, times, dtype=torch.float64)
    solution = solve(field, y0, t, controller=FixedStep(1 / steps), gradient=gradients.by_name("symplectic", keep=keep))
    grads = torch.autograd.grad(solution.ys.square().sum(), [y0, *field.parameters()])
    return list(grads), solution.stats.checkpoint_bytes, solution.stats.nfe_backward


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 40), slots=st.integers(2, 9), times=st.integers(2, 4))
def test_any_number_of_checkpoints_gives_the_same_bits(steps: int, slots: int, times: int) -> None:
    expected, _, least = solved("stages", steps, times)
    grads, held, used = solved(f"binomial({slots})", steps, times)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
    assert held <= (slots - 1) * STATE
    assert used >= least


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 40), states=st.integers(0, 300))
def test_a_budget_is_kept_and_gives_the_same_bits(steps: int, states: int) -> None:
    expected, everything, least = solved("stages", steps)
    budget = states * STATE
    grads, held, used = solved(f"budget({budget})", steps)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
    assert held <= max(budget, STATE)
    assert (used == least) == (everything <= budget)


def test_a_larger_budget_never_costs_more() -> None:
    used = [solved(f"budget({n * STATE})", 30)[2] for n in (1, 2, 4, 8, 16, 29, 60, 120, 179)]
    assert used == sorted(used, reverse=True)
    assert used[0] > used[-1] == 180


def test_thirty_steps_with_five_checkpoints_cost_little_more_than_the_optimum() -> None:
    _, _, used = solved("binomial(5)", 30)
    recomputed = used - 11 * 30
    assert recomputed <= 1.5 * 6 * fewest(30, 4)


def test_no_more_states_are_alive_in_backward_than_there_are_places() -> None:
    def peak(keep: str) -> int:
        field = SmallField()
        with LiveTensorMeter() as meter:
            y0 = start(rows=3000)
            t = torch.tensor([0.0, 1.0], dtype=torch.float64)
            gradient = gradients.by_name("symplectic", keep=keep)
            ys = solve(field, y0, t, controller=FixedStep(1 / 64), gradient=gradient).ys
            ys[-1].square().sum().backward()
        return meter.peak_bytes

    state = start(rows=3000).nbytes
    assert peak("steps") - peak("binomial(4)") > 55 * state
    assert peak("stages") - peak("steps") > 300 * state


def test_policies_are_named() -> None:
    assert parse("stages") == Stages()
    assert parse("steps") == Steps()
    assert parse("binomial(12)") == Binomial(12)
    assert parse("budget(1000)") == Budget(1000)


@pytest.mark.parametrize("text", ["everything", "binomial(1)", "binomial", "budget(-1)", "budget(1MB)", ""])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"keep|binomial|budget"):
        parse(text)


@pytest.mark.parametrize("keep", ["binomial(3)", "budget(1500)"])
def test_missing_states_are_found_with_quadratures_rejections_and_outputs_between(keep: str) -> None:
    from symadj_core import IController
    from tests.core.systems import with_rate

    results = []
    for gradient in (gradients.by_name("symplectic", keep=keep), gradients.by_name("backprop")):
        field, y0 = SmallField(), start()
        t = torch.tensor([0.0, 0.33, 0.34, 2.0], dtype=torch.float64, requires_grad=True)
        controller = IController(rtol=1e-6, atol=1e-8, first_step=1.0)
        solution = solve(field, y0, t, controller=controller, gradient=gradient, quadrature=with_rate(field, y0))
        assert solution.stats.rejected > 0
        assert solution.stats.accepted > 5
        assert solution.quadratures is not None
        loss = solution.ys.square().sum() + solution.quadratures.sum()
        results.append(list(torch.autograd.grad(loss, [y0, t, *field.parameters()])))
    assert relative_error(*results) < 1e-14
