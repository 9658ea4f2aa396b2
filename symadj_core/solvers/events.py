"""Where a function of time and state crosses zero along a solution, and the derivative of that.

The time and the state of an event are found from signs alone, so that a condition without a derivative (a comparison,
whole numbers, numpy) is as good as any. The derivative is made in backward, when one is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from symadj_core.errors import SolverError, Status
from symadj_core.solvers.controller import Controller, FixedStep
from symadj_core.solvers.moving import value_of
from symadj_core.solvers.once import Once
from symadj_core.solvers.precision import precision_of, widened
from symadj_core.solvers.problem import Problem, Stats
from symadj_core.solvers.step import Step, interpolate
from symadj_core.solvers.system import Field, System
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import Outputs, SolverStep, march

# (t, y) -> a tensor, or anything else that torch.as_tensor takes.
Event = Callable[[Tensor, Tensor], Any]

# The largest time span searched before giving up, in units of the direction t[1] - t[0].
_FAR = 1e9


class WatchedEvent:
    """An event function that is told, once its zero is found, which of its entries crossed.

    Args:
        function: (t, y) -> tensor.
    """

    def __init__(self, function: Event) -> None:
        self.function = function
        # Counted in the flattened value; -1 before it is known.
        self.entry = -1

    def __call__(self, t: Tensor, y: Tensor) -> Any:
        return self.function(t, y)


class _FoundError(Exception):
    """Ends the march at the event."""

    def __init__(self, time: float, entry: int) -> None:
        self.time, self.entry = time, entry


class _Watch:
    """Looks at every accepted step for a change of sign of (any entry of) the event function."""

    def __init__(self, event: Event, system: System, tableau: ButcherTableau, t0: float, y0: Tensor) -> None:
        self._event, self._system, self._tableau = event, system, tableau
        self._signs = torch.sign(self._values(t0, y0))
        at_start = (self._signs == 0).nonzero()
        self.at_start = int(at_start[0]) if len(at_start) else None

    def _values(self, t: float, y: Tensor) -> Tensor:
        values = _entries(self._event(self._system.time(t, y), self._system.given(y)))
        if bool(values.isnan().any()):
            raise ValueError(f"the event function is NaN at t={t:.9g}")
        return values

    def signed(self, t: float, y: Tensor) -> Tensor:
        """The entries, [n]: positive before their event, not positive from it on.

        Raises:
            ValueError: one of them is not a number there.
        """
        return self._values(t, y) * self._signs

    def __call__(self, record: SolverStep, step: Step) -> None:
        ended = self.signed(record.end, step.y)
        if bool((ended > 0).all()):
            return
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            t = record.start + middle * record.length
            weights = [value_of(w) for w in self._tableau.dense_weights(middle)]
            y, _q = interpolate(self._tableau, step, step.states[0], None, record.length, weights)
            values = self.signed(t, y)
            if bool((values > 0).all()):
                low = middle
            else:
                high, ended = middle, values
            if (high - low) * abs(record.length) <= math.ulp(abs(record.end)):
                break
        raise _FoundError(record.start + high * record.length, int((ended <= 0).nonzero()[0]))


def _entries(value: Any) -> Tensor:
    """What an event function returned as numbers, [n]; a comparison is 1 where it holds and -1 where it does not.

    Raises:
        TypeError: it is neither numbers nor truth values.
    """
    try:
        if isinstance(value, tuple | list) and all(isinstance(part, Tensor) for part in value):
            value = torch.cat([part.reshape(-1) for part in value])
        entries = torch.as_tensor(value).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"the event function must return a tensor, numbers or a comparison, not {type(value).__name__}"
        ) from error
    if entries.numel() == 0 or entries.is_complex():
        raise TypeError("the event function must return at least one real number, whose sign is looked at")
    if entries.dtype == torch.bool:
        return torch.where(entries, 1.0, -1.0)
    # A product of a whole number and a sign must not overflow.
    return entries if entries.is_floating_point() else entries.to(torch.float64)


def find(
    field: Field,
    y0: Tensor,
    t: Tensor,
    event: WatchedEvent,
    *,
    tableau: ButcherTableau,
    controller: Controller,
) -> Tensor:
    """The time at which an entry of event(t, y(t)) first crosses zero, by bisection on the dense output.

    Args:
        field, y0: what is integrated.
        t: [2], start and any time in the direction to search.
        event: (t, y) -> tensor, numbers or truth values; no derivative of it is needed. It is told its entry.
        tableau, controller: method and step sizes.

    Returns:
        The time, 0-dim, of t's dtype and device, without gradient; t[0] where the event function is zero there already.

    Raises:
        SolverError: the solve failed before any event, or there is none within 1e9 times t[1] - t[0].
        ValueError: fixed steps without their size, or the event function is not a number.
        TypeError: the event function returns something else than numbers.
    """
    if isinstance(controller, FixedStep) and controller.step_size is None:
        raise ValueError("events with fixed steps need step_size: there is no grid beyond the times")
    start, towards = t.tolist()
    with torch.no_grad():
        y = widened(y0.detach())
        system = System(field, None, precision_of(y0, start, towards))
        watch = _Watch(event, system, tableau, start, y)
        if watch.at_start is not None:
            event.entry = watch.at_start
            return t[0].detach().clone()
        end = start + _FAR * (towards - start)
        # Requesting a time in every step makes each step compute what its interpolant needs.
        problem = Problem(system, y, None, t, [start, end], tableau, controller, (), (), False, Stats())
        try:
            march(problem, Outputs(y, None), watch, always_dense=True)
        except _FoundError as found:
            event.entry = found.entry
            return torch.tensor(found.time, dtype=t.dtype, device=t.device)
        except SolverError as error:
            raise error.before_event() from None
    raise SolverError(Status.NO_EVENT, t=end, dt=0.0, step=problem.stats.accepted)


def reroute(field: Field, event: WatchedEvent, t: Tensor, event_t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Event time and state with the derivatives of the implicit function theorem.

    With g(t, y(t)) = 0, g the entry that crossed, dt = -dg / (g_t + g_y f) where dg is taken at fixed time, and the
    state moves with the time by f dt (Chen et al., ICLR 2021, section 3.2). The values are those given.

    Args:
        field, event: f and g.
        t: [2], as for `find`.
        event_t: 0-dim, from `find`.
        y: state there, with its gradient at fixed time.

    Raises:
        RuntimeError: in backward, where g has no derivative or none along the solution, and of a second derivative.
    """
    if not torch.is_grad_enabled():
        return event_t, y
    system = System(field, None, precision_of(y, *t.tolist()))
    crossing: Tensor | None = None
    # It was found without a graph, so it has a value; if (as with numpy) it has no derivative, backward says so.
    with suppress(RuntimeError, TypeError, ValueError):
        crossing = _entries(event(system.time(float(event_t), y), y))[event.entry]
    if not y.requires_grad and (crossing is None or not crossing.requires_grad):
        return event_t, y
    moved: tuple[Tensor, Tensor] = _AtEvent.apply(system, event, event_t, y, crossing)  # type: ignore[no-untyped-call]
    return moved


class _AtEvent(torch.autograd.Function):
    """(event time, state) as they are, moving with the zero of the event function."""

    @staticmethod
    def forward(
        ctx: Any, system: System, event: WatchedEvent, event_t: Tensor, y: Tensor, crossing: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.system, ctx.event, ctx.crosses = system, event, crossing is not None
        ctx.save_for_backward(event_t, y)
        return event_t.clone(), y.view_as(y)

    @staticmethod
    def backward(ctx: Any, time: Tensor, state: Tensor) -> Any:
        event_t, y = ctx.saved_tensors
        try:
            speed, rate = _along(ctx.system, ctx.event, float(event_t), y.detach())
        except RuntimeError:
            if not (bool(time.any()) or bool(state.any())):
                return None, None, None, state, None
            raise
        with torch.no_grad():
            crossing = -(time.to(rate) + (state.conj() * speed).real.sum()) / rate
        if torch.is_grad_enabled():
            crossing = Once.apply("the time of an event has no second derivative", crossing, y, time, state)  # type: ignore[no-untyped-call]
        return None, None, None, state, crossing if ctx.crosses else None


def _along(system: System, event: WatchedEvent, t: float, y: Tensor) -> tuple[Tensor, Tensor]:
    """f, and how fast the entry of g that crossed changes along the solution, g_t + g_y f; 0-dim, not zero.

    Raises:
        RuntimeError: there is no such derivative, or it is zero.
    """
    advice = (
        "the time and the state of the event have no derivative: detach what needs none, or give an event function "
        "with a slope at its zero"
    )
    with torch.enable_grad():
        moment, state = system.time(t, y).requires_grad_(), y.requires_grad_()
        try:
            value = _entries(event(moment, state))[event.entry]
        except (RuntimeError, TypeError, ValueError) as error:
            raise RuntimeError(f"the event function can't be differentiated ({error}), so that {advice}") from error
        if not value.requires_grad:
            without = "a comparison, whole numbers, numpy, detach"
            raise RuntimeError(f"the event function's value has no graph ({without}), so that {advice}")
        g_t, g_y = torch.autograd.grad(value, (moment, state), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        speed = system.given(system.slope(t, state.detach(), with_quadrature=False).state)
        rate = g_t + (g_y.conj() * speed).real.sum()
    if not math.isfinite(float(rate)) or float(rate) == 0.0:
        raise RuntimeError(f"the event function changes by {float(rate):g} along the solution, so that {advice}")
    return speed, rate
