"""Where a function of time and state crosses zero along a solution, and the derivative of that."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from symadj_core.errors import SolverError, Status
from symadj_core.solvers.controller import Controller, FixedStep
from symadj_core.solvers.moving import value_of
from symadj_core.solvers.problem import Problem, Stats
from symadj_core.solvers.step import Step, interpolate
from symadj_core.solvers.system import Field, System, time_tensor
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import Outputs, SolverStep, march

Event = Callable[[Tensor, Tensor], Tensor]

# The largest time span searched before giving up, in units of the direction t[1] - t[0].
_FAR = 1e9


class _FoundError(Exception):
    """Ends the march at the event."""

    def __init__(self, time: float) -> None:
        self.time = time


class _Watch:
    """Looks at every accepted step for a change of sign of (any entry of) the event function."""

    def __init__(self, event: Event, tableau: ButcherTableau, t0: float, y0: Tensor) -> None:
        self._event, self._tableau = event, tableau
        self._signs = torch.sign(event(time_tensor(t0, y0), y0))
        self.happened = bool((self._signs == 0).any())

    def value(self, t: float, y: Tensor) -> float:
        """Positive before the event, not positive from it on.

        Raises:
            ValueError: the event function is not a number there.
        """
        value = float((self._event(time_tensor(t, y), y) * self._signs).min())
        if math.isnan(value):
            raise ValueError(f"the event function is NaN at t={t:.9g}")
        return value

    def __call__(self, record: SolverStep, step: Step) -> None:
        if self.value(record.end, step.y) > 0:
            return
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            t = record.start + middle * record.length
            weights = [value_of(w) for w in self._tableau.dense_weights(middle)]
            y, _q = interpolate(self._tableau, step, step.states[0], None, record.length, weights)
            low, high = (middle, high) if self.value(t, y) > 0 else (low, middle)
            if (high - low) * abs(record.length) <= math.ulp(abs(record.end)):
                break
        raise _FoundError(record.start + high * record.length)


def find(
    field: Field,
    y0: Tensor,
    t: Tensor,
    event: Event,
    *,
    tableau: ButcherTableau,
    controller: Controller,
) -> Tensor:
    """The time at which an entry of event(t, y(t)) first crosses zero, by bisection on the dense output.

    Args:
        field, y0: what is integrated.
        t: [2], start and any time in the direction to search.
        event: (t, y) -> tensor.
        tableau, controller: method and step sizes.

    Returns:
        0-dim, of t's dtype and device, without gradient; t[0] where the event function is zero there already.

    Raises:
        SolverError: the solve failed before any event, or there is none within 1e9 times t[1] - t[0].
        ValueError: fixed steps without their size, or the event function is not a number.
    """
    if isinstance(controller, FixedStep) and controller.step_size is None:
        raise ValueError("events with fixed steps need step_size: there is no grid beyond the times")
    start, towards = t.tolist()
    with torch.no_grad():
        watch = _Watch(event, tableau, start, y0)
        if watch.happened:
            return t[0].clone()
        end = start + _FAR * (towards - start)
        # Requesting a time in every step makes each step compute what its interpolant needs.
        problem = Problem(System(field, None), y0, None, t, [start, end], tableau, controller, (), (), False, Stats())
        try:
            march(problem, Outputs(y0, None), watch, always_dense=True)
        except _FoundError as found:
            return torch.tensor(found.time, dtype=t.dtype, device=t.device)
    raise SolverError(Status.MAX_STEPS, t=end, dt=0.0, step=problem.stats.accepted)


def reroute(field: Field, event: Event, event_t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Event time and state with the derivatives of the implicit function theorem.

    With g(t, y(t)) = 0, dt = -dg / (g_t + g_y f) where dg is taken at fixed time, and the state moves with the time by
    f dt. One Newton step, whose correction is zero in value up to the solve's tolerance, has just these derivatives.

    Args:
        field, event: f and g.
        event_t: 0-dim, from `find`.
        y: state there, with its gradient at fixed time.
    """
    t0, y0 = event_t.detach().to(y.real.dtype), y.detach()
    with torch.enable_grad():
        t0, y0 = t0.requires_grad_(), y0.requires_grad_()
        speed = field(t0, y0).detach()
        value = event(t0, y0)
        # Of several entries, the one that crossed.
        crossing = value.detach().abs().reshape(-1).argmin()
        g_t, g_y = torch.autograd.grad(value.reshape(-1)[crossing], (t0, y0), allow_unused=True, materialize_grads=True)
    rate = g_t + (g_y.conj() * speed).real.sum()
    now = event(t0.detach(), y).reshape(-1)[crossing]
    shift = (now.detach() - now) / rate
    return event_t + shift.to(event_t), y + speed * shift
