from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from symadj_core import FixedStep, IController, SolverError, gradients, solve
from symadj_core.gradients.keep import Binomial, Budget, Stages, Steps, parse
from symadj_core.memory import LiveTensorMeter
from symadj_core.solvers.controller import Controller
from symadj_core.solvers.problem import Callbacks
from symadj_core.solvers.tableaus import by_name
from tests.core.systems import ADAPTIVE_SOLVERS, SmallField, relative_error, start, with_rate

STEPS = 2000
STATE = start().nbytes


@cache
def fewest(slots: int) -> Sequence[int]:
    """Steps to take, at least, to reverse 0, 1, 2 ... STEPS steps with so many states held: all schedules are tried."""
    n = np.arange(STEPS + 1)
    if slots == 1:
        return list(n * (n - 1) // 2)
    fewer, found = np.asarray(fewest(slots - 1)), np.zeros(STEPS + 1, dtype=int)
    for steps in n[2:]:
        first = n[1:steps]
        found[steps] = (first + fewer[steps - first] + found[first]).min()
    return list(found)


def optimum(steps: int, slots: int) -> int:
    """Steps taken forward in a solve and its reversal, at least; the solve takes the last one, too, for its result."""
    return fewest(slots)[steps] + 1


def taken(held: list[int], steps: int, slots: int) -> int:
    """Steps taken forward where those states were held when the solve ended, and every gap is reversed at its best."""
    gaps = np.diff([*held, steps])
    return steps + sum(fewest(slots - n)[gap] for n, gap in enumerate(gaps))


def per_stage(steps: int, forward: int, stages: int) -> float:
    """Uses of the field per stage and step: evaluations and backward passes."""
    return forward / steps + (stages - 1) / stages + 2


@pytest.mark.parametrize("slots", [4, 8, 16, 32, 64])
def test_wherever_an_adaptive_solve_ends_little_more_than_the_optimum_remains(slots: int) -> None:
    recorder, state = Binomial(slots).recorder(), torch.zeros(1)
    for steps in range(1, STEPS + 1):
        recorder.add([state])
        held = [n for n, kept in enumerate(recorder.kept) if kept]
        assert held[0] == 0
        assert len(held) <= slots
        # A method of one stage is the hardest, since nothing but the schedule costs much.
        found, least = (per_stage(steps, x, 1) for x in (taken(held, steps, slots), optimum(steps, slots)))
        assert found <= 1.35 * least


@pytest.mark.parametrize("slots", [2, 3, 4, 8, 16, 32, 64])
def test_where_the_number_of_steps_is_known_no_schedule_is_better(slots: int) -> None:
    for steps in (*range(1, 100), 330, 331, 999, 1024, STEPS - 1):
        recorder = Binomial(slots).recorder()
        recorder.expect(steps)
        for _ in range(steps):
            recorder.add([torch.zeros(1)])
        held = [n for n, kept in enumerate(recorder.kept) if kept]
        assert len(held) == min(steps, slots)
        found = taken(held, steps, slots)
        # The solve ends before it is reversed: the loss is a step of its own, the first to be reversed.
        assert found == fewest(slots)[steps + 1]
        assert slots < 4 or per_stage(steps, found, 1) <= 1.1 * per_stage(steps, optimum(steps, slots), 1)


class CountingField(SmallField):
    """Counts its evaluations and backward passes."""

    uses = 0

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.uses += 1
        slope: torch.Tensor = super().forward(t, y)
        if slope.requires_grad:
            slope.register_hook(self.count)
        return slope

    def count(self, _cotangent: torch.Tensor) -> None:
        self.uses += 1


def uses(solver: str, controller: Controller, slots: int) -> tuple[float, int]:
    """Uses of the field per stage and step, those of rejected attempts and the first step's choice apart; steps."""
    field = CountingField()
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    gradient = gradients.by_name("symplectic", keep=f"binomial({slots})")
    solution = solve(field, start(), t, solver=solver, controller=controller, gradient=gradient)
    stages, steps = by_name(solver).stages, solution.stats.accepted
    field.uses = stages * steps
    solution.ys.square().sum().backward()
    return field.uses / (stages * steps), steps


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 60), slots=st.integers(2, 64))
@example(steps=200, slots=8)
@example(steps=1, slots=2)
def test_a_fixed_solve_and_its_gradient_use_the_field_as_little_as_possible(steps: int, slots: int) -> None:
    found, _ = uses("rk4", FixedStep(1 / steps), slots)
    assert found == pytest.approx(per_stage(steps, fewest(slots)[steps + 1], 4), abs=1e-12)
    assert slots < 4 or found <= 1.1 * per_stage(steps, optimum(steps, slots), 4)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(tolerance=st.floats(2, 9), slots=st.integers(4, 64), solver=st.sampled_from(ADAPTIVE_SOLVERS))
@example(tolerance=9, slots=4, solver="bosh3")
def test_an_adaptive_solve_and_its_gradient_use_the_field_little_more(
    tolerance: float, slots: int, solver: str
) -> None:
    # Much too long a first step: some attempts are rejected, and none of those is repeated in backward.
    controller = IController(rtol=10**-tolerance, atol=10**-tolerance, first_step=1.0, max_steps=STEPS)
    try:
        found, steps = uses(solver, controller, slots)
    except SolverError:
        assume(False)
    assert found <= 1.35 * per_stage(steps, optimum(steps, slots), by_name(solver).stages)


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


def peak(keep: str, controller: Controller, solver: str = "rk4") -> float:
    """Peak memory of a solve and its gradient, in states."""
    field = SmallField()
    with LiveTensorMeter() as meter:
        y0 = start(rows=3000)
        t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        gradient = gradients.by_name("symplectic", keep=keep)
        ys = solve(field, y0, t, solver=solver, controller=controller, gradient=gradient).ys
        ys[-1].square().sum().backward()
    return meter.peak_bytes / start(rows=3000).nbytes


def test_more_states_kept_are_more_memory() -> None:
    controller = FixedStep(1 / 64)
    assert peak("steps", controller) - peak("binomial(4)", controller) > 58.9
    assert peak("stages", controller) - peak("steps", controller) > 180


def adaptive(size: float) -> Controller:
    """Equal steps, whose number is not known before the solve."""
    return IController(rtol=1.0, atol=1.0, first_step=size, max_step=size)


@pytest.mark.parametrize("keep", ["binomial(8)", f"budget({7 * start(rows=3000).nbytes})"])
@pytest.mark.parametrize(("solver", "controller"), [("rk4", FixedStep), ("dopri5", adaptive)])
def test_forty_steps_need_no_more_memory_than_as_many_as_there_are_places(
    keep: str, solver: str, controller: Callable[[float], Controller]
) -> None:
    # With eight steps, all states are kept. Of more steps there is one state beside those, the step's own.
    assert peak(keep, controller(1 / 40), solver) <= peak("steps", controller(1 / 8), solver) + 1.1


def test_a_field_and_callbacks_may_keep_the_states_that_they_see() -> None:
    seen: list[torch.Tensor] = []

    class Keeping(SmallField):
        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            seen.append(y)
            return super().forward(t, y)

    gradient = gradients.by_name("symplectic", keep="binomial(3)")
    callbacks = Callbacks(step=lambda t, y, dt: seen.append(y))
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ys = solve(Keeping(), start(), t, controller=FixedStep(1 / 20), gradient=gradient, callbacks=callbacks).ys
    ys.sum().backward()
    assert all(y.shape == (4, 3) for y in seen)


def test_after_a_backward_that_failed_half_way_another_is_refused() -> None:
    class Failing(SmallField):
        left = 10**6

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.left -= 1
            if self.left == 0:
                raise ZeroDivisionError
            return super().forward(t, y)

    field, t = Failing(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    gradient = gradients.by_name("symplectic", keep="binomial(3)")
    loss = solve(field, start(), t, solver="rk4", controller=FixedStep(1 / 20), gradient=gradient).ys.sum()
    field.left = 60
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    with pytest.raises(RuntimeError, match="solve again"):
        loss.backward()


@settings(max_examples=10, deadline=None)
@given(
    solver=st.sampled_from(ADAPTIVE_SOLVERS),
    slots=st.integers(2, 9),
    end=st.sampled_from([-2.0, 2.0]),
    jumps=st.sampled_from([(), (0.7,)]),
)
def test_an_adaptive_solve_gives_the_same_bits_whatever_is_kept(
    solver: str, slots: int, end: float, jumps: tuple[float, ...]
) -> None:
    found = []
    for keep in ("stages", f"binomial({slots})"):
        field, y0 = SmallField(), start()
        t = torch.tensor([0.0, 0.16 * end, 0.17 * end, end], dtype=torch.float64, requires_grad=True)
        controller = IController(rtol=1e-4, atol=1e-6, first_step=2.0, jump_t=tuple(end * x for x in jumps))
        gradient = gradients.by_name("symplectic", keep=keep)
        quadrature = with_rate(field, y0)
        solution = solve(field, y0, t, solver=solver, controller=controller, gradient=gradient, quadrature=quadrature)
        assert solution.quadratures is not None
        loss = solution.ys.square().sum() + solution.quadratures.sum()
        # Twice: a retained graph keeps its states.
        inputs = [y0, t, *field.parameters()]
        found += [torch.autograd.grad(loss, inputs, retain_graph=True), torch.autograd.grad(loss, inputs)]
    for grads in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads, found[0], strict=True))


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
