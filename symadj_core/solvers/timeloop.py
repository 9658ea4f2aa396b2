"""The time loop: from y0 to the last requested time, on a fixed grid or adaptively.

Where gradients are concerned the accepted grid is frozen: a grid point that coincides with an entry of t moves with
that entry (it is *tied* to it), all other points and every decision of the controller are constants. That is the map
whose exact derivative the gradient methods return.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symadj_core.errors import SolverError, Status
from symadj_core.solvers import controller as control
from symadj_core.solvers.controller import AdaptiveController, FixedStep
from symadj_core.solvers.moving import Time, moving
from symadj_core.solvers.precision import real_dtype
from symadj_core.solvers.problem import Callback, Problem, Stats
from symadj_core.solvers.randomness import RandomState, capturing
from symadj_core.solvers.step import Interval, Step, Wanted, interpolate, take_step
from symadj_core.solvers.system import Slope, System

# Steps below the state's rounding are warned of where all of them together are this many times above it.
_LOST = 64.0


@dataclass(frozen=True)
class SolverStep:
    """One accepted step, without tensors: enough to take it again.

    Attributes:
        start, end: times of the step.
        start_tie, end_tie: indices of the entries of t to which they are tied, or None.
        outputs: (index into t, theta) of the requested times answered by interpolation in this step.
        jump_at_start, jump_at_end: the field jumps there.
        random: states of the generators before each slope, the end slot last; empty if the field draws nothing.
    """

    start: float
    end: float
    start_tie: int | None
    end_tie: int | None
    outputs: tuple[tuple[int, float], ...]
    jump_at_start: bool = False
    jump_at_end: bool = False
    random: tuple[RandomState | None, ...] = ()

    @property
    def length(self) -> float:
        return self.end - self.start

    def drawn(self, slot: int) -> RandomState | None:
        """State of the generators before slope `slot`."""
        return self.random[slot] if self.random else None

    def interval(self, t: Tensor | None = None) -> Interval:
        """The step's interval, with tied ends taken from t if it is given (for gradients with respect to t)."""
        return Interval(
            _tied(self.start, self.start_tie, t),
            _tied(self.end, self.end_tie, t),
            self.jump_at_start,
            self.jump_at_end,
        )

    def theta(self, index: int, theta: float, t: Tensor | None = None) -> Time:
        """Position of output `index` in the step, moving with the entries of t where t is given."""
        if t is None:
            return theta
        start = self.start if self.start_tie is None else t[self.start_tie]
        end = self.end if self.end_tie is None else t[self.end_tie]
        return moving(theta, (t[index] - start) / (end - start))


def _tied(time: float, tie: int | None, t: Tensor | None) -> Time:
    return time if tie is None or t is None else moving(time, t[tie])


class Outputs:
    """States (and quadratures) at the requested times, in the order of t."""

    def __init__(self, y0: Tensor, q0: Tensor | None) -> None:
        self.states = [y0]
        self.quadratures = [] if q0 is None else [q0]

    def append(self, y: Tensor, q: Tensor | None) -> None:
        self.states.append(y)
        if q is not None:
            self.quadratures.append(q)

    def stacked(self) -> tuple[Tensor, Tensor | None]:
        """([T, *y.shape], [T, *q.shape] or None)."""
        return torch.stack(self.states), torch.stack(self.quadratures) if self.quadratures else None


OnStep = Callable[[SolverStep, Step], None]


def march(
    problem: Problem,
    outputs: Outputs,
    on_step: OnStep,
    t: Tensor | None = None,
    *,
    always_dense: bool = False,
    expect: Callable[[int], None] | None = None,
) -> None:
    """Integrate over the requested times, in the grad mode of the caller.

    Args:
        problem: what to integrate; its stats are filled.
        outputs: gets the solution at every requested time after the first.
        on_step: called after every accepted step with its record and the step itself.
        t: the requested times as a tensor if their gradients are wanted by autograd, else None.
        always_dense: every step computes what its interpolant needs, even if no requested time lies in it.
        expect: told the number of steps before the first one, if they are fixed.

    Raises:
        SolverError: the end was not reached.
    """
    if isinstance(problem.controller, FixedStep):
        _march_fixed(problem, problem.controller, outputs, on_step, t, always_dense, expect)
    else:
        _march_adaptive(problem, problem.controller, outputs, on_step, t, always_dense)


def _march_fixed(
    problem: Problem,
    settings: FixedStep,
    outputs: Outputs,
    on_step: OnStep,
    t: Tensor | None,
    always_dense: bool,
    expect: Callable[[int], None] | None,
) -> None:
    stats, times = problem.stats, problem.times
    count, steps = settings.steps(times)
    if expect is not None:
        expect(count)
    ties = {time: index for index, time in enumerate(times)}
    y, q, slope = problem.y0, problem.q0, None
    cursor = 1
    for start, end in steps:
        inside, cursor = _outputs_between(times, cursor, start, end, end in ties)
        perturb = settings.perturb
        record = SolverStep(start, end, ties.get(start), ties.get(end), inside, perturb, perturb)
        before = problem.system.evaluations
        wanted = Wanted(dense=bool(inside) or always_dense, next_slope=end != times[-1] and not perturb)
        _call(problem.system, problem.callbacks.step, start, end - start, y)
        step = take_step(problem.system, problem.tableau, record.interval(t), y, q, slope, wanted)
        _emit(problem, outputs, record, step, y, q, t)
        on_step(_with_randomness(record, step), step)
        y, q, slope = step.y, step.q, None if perturb else step.slopes[-1]
        _count(stats, record, problem.system.evaluations - before)
    _check_end(problem, outputs, step, end - start)


def _check_end(problem: Problem, outputs: Outputs, step: Step, dt: float) -> None:
    """Look at the end of a solve with fixed steps, once, since every look waits for the device.

    A CUDA graph that is being captured can't be looked at: whoever replays it must.

    Raises:
        SolverError: a state is not finite; it names the first such requested time.
    """
    if capturing(step.y.device):
        return
    stats, times, first = problem.stats, problem.times, step.slopes[0]
    assert first is not None
    with torch.no_grad():
        finite = control.all_finite([x for x in (step.y, step.q) if x is not None])
        size = torch.linalg.vector_norm(step.y)
        gain = abs(dt) * torch.linalg.vector_norm(first.state)
        is_finite, state, increment = torch.stack([finite.to(size.dtype), size, gain]).tolist()
        if not is_finite:
            bad = next((n for n, x in enumerate(outputs.states) if not bool(torch.isfinite(x).all())), len(times) - 1)
            reason = Status.OVERFLOW if bool(control.all_finite(_rates(step))) else Status.NON_FINITE
            raise SolverError(reason, t=times[bad], dt=dt, step=stats.accepted)
    rounding = torch.finfo(step.y.dtype).eps * state
    if increment < rounding and stats.accepted * increment > _LOST * rounding:
        warnings.warn(
            f"the {stats.accepted} steps of {abs(dt):.3g} change the state by less than {step.y.dtype} can tell "
            f"({increment:.1e} at a size of {state:.1e}), so that much of the change is lost: take longer steps, or a "
            "state in more precision",
            RuntimeWarning,
            stacklevel=2,
        )


def _rates(step: Step) -> list[Tensor]:
    """All that the field (and the rates of the quadratures) returned within the step."""
    parts = [x for slope in step.slopes if slope is not None for x in (slope.state, slope.quadrature)]
    return [x for x in parts if x is not None]


def _march_adaptive(
    problem: Problem,
    settings: AdaptiveController,
    outputs: Outputs,
    on_step: OnStep,
    t: Tensor | None,
    always_dense: bool,
) -> None:
    system, tableau, stats, times = problem.system, problem.tableau, problem.stats, problem.times
    start, final, jumps = times[0], times[-1], frozenset(settings.jump_t)
    y, q = problem.y0, problem.q0
    augmented = q is not None and settings.control == "augmented"

    before = system.evaluations
    opening = Interval(_tied(start, 0, t), final, jump_at_start=start in jumps)
    slope: Slope | None = system.slope(opening.at(0.0, system.precision.time), y, with_quadrature=q is not None)
    assert slope is not None
    size = settings.first_step
    if size is None:
        size = control.initial_step(system, settings, tableau.error_order, (start, final), y, slope)
    stats.nfe_forward += system.evaluations - before
    if not math.isfinite(size):
        raise SolverError(Status.NON_FINITE, t=start, dt=size, step=0)

    pace = _Pace(settings, tableau.error_order, times, size)
    cursor = 1
    while start != final:
        end = pace.propose(start, stats)
        at_final, jump = end == final, end in jumps
        inside, next_cursor = _outputs_between(times, cursor, start, end, at_final)
        record = SolverStep(
            start,
            end,
            0 if start == times[0] else None,
            len(times) - 1 if at_final else None,
            inside,
            start in jumps,
            jump,
        )
        wanted = Wanted(
            error=True,
            quadrature_error=augmented,
            dense=bool(inside) or always_dense,
            next_slope=not at_final and not jump,
        )
        before = system.evaluations
        _call(problem.system, problem.callbacks.step, start, end - start, y)
        step = take_step(system, tableau, record.interval(t), y, q, slope, wanted)
        error = _error_norm(settings, step, y, q, last=at_final)
        used = system.evaluations - before

        accepted = pace.accepts(error)
        _call(system, problem.callbacks.accept if accepted else problem.callbacks.reject, start, end - start, y)
        if not accepted:
            stats.rejected += 1
            stats.nfe_forward += used
            pace.shrink(error, start, end, stats)
            slope = step.slopes[0]
            continue
        _emit(problem, outputs, record, step, y, q, t)
        on_step(_with_randomness(record, step), step)
        _count(stats, record, used)
        pace.go_on(error, start, end)
        start, y, q, cursor = end, step.y, step.q, next_cursor
        slope = None if jump else step.slopes[-1]


class _Pace:
    """The step size of an adaptive solve as it proceeds; all of it on the host.

    Args:
        settings: the controller.
        error_order: order of the embedded solution.
        times: the requested times.
        size: the first step's, > 0.
    """

    def __init__(self, settings: AdaptiveController, error_order: int, times: list[float], size: float) -> None:
        self._settings, self._size = settings, size
        self._exponent = 1.0 / (error_order + 1)
        self._direction = 1.0 if times[-1] > times[0] else -1.0
        asked = {*settings.step_t, *settings.jump_t}
        inner = (s for s in asked if self._ahead(times[0], s) > 0 and self._ahead(s, times[-1]) > 0)
        # Times at which a step must end, the next one last.
        self._stops = [times[-1], *sorted(inner, key=lambda s: -self._direction * s)]
        self._attempts = 0
        self._previous_error = 1.0
        self._rejected = False

    def _ahead(self, start: float, end: float) -> float:
        return self._direction * (end - start)

    def propose(self, start: float, stats: Stats) -> float:
        """Where the next attempted step from `start` ends.

        Raises:
            SolverError: the step is too small, or the limit of steps is reached.
        """
        settings = self._settings
        self._size = min(self._size, settings.max_step)
        if settings.accept_at_min_step:
            self._size = max(self._size, settings.min_step)
        end, stop = start + self._direction * self._size, self._stops[-1]
        remaining = self._ahead(start, stop)
        if remaining <= 1.01 * self._size:
            # A step that would end just before a stop is stretched to it, or two are made of it: no sliver remains.
            end = stop if remaining <= settings.max_step else start + 0.5 * self._direction * remaining
        too_small = self._size < max(settings.min_step, self._resolution(start))
        if end == start or (too_small and (self._rejected or end != stop)):
            dt = self._direction * self._size
            raise SolverError(Status.UNDERFLOW_IN_DT, t=start, dt=dt, step=stats.accepted)
        if self._attempts >= settings.max_steps:
            raise SolverError(Status.MAX_STEPS, t=start, dt=end - start, step=stats.accepted)
        self._attempts += 1
        return end

    @staticmethod
    def _resolution(start: float) -> float:
        """The smallest step that floating point resolves well (Hairer, Norsett and Wanner's dopri5 stops there too)."""
        return 10.0 * math.ulp(start)

    def accepts(self, error: float) -> bool:
        """Whether a step with this error norm is good."""
        smallest = self._settings.accept_at_min_step and self._size <= self._settings.min_step
        return error <= 1.0 or (smallest and math.isfinite(error))

    def shrink(self, error: float, start: float, end: float, stats: Stats) -> None:
        """Choose the size after a rejected step.

        Raises:
            SolverError: the error is not finite, however small the step.
        """
        # Not the rounded length alone: near the resolution of t it may be as long after a cut as before.
        settings, length = self._settings, min(self._size, abs(end - start))
        self._rejected = True
        if math.isfinite(error):
            self._size = length * min(settings.factor(error, self._previous_error, self._exponent), settings.safety)
            return
        self._size = length * settings.min_factor
        if self._size < max(settings.min_step, self._resolution(start)):
            raise SolverError(Status.NON_FINITE, t=start, dt=end - start, step=stats.accepted)

    def go_on(self, error: float, start: float, end: float) -> None:
        """Choose the size after an accepted step."""
        length = abs(end - start)
        grown = length * self._settings.factor(error, self._previous_error, self._exponent)
        if end == self._stops[-1]:
            # The step was cut short to end here: go on with the size that was intended.
            self._stops.pop()
            grown = max(self._size, grown)
        # Right after a rejection the size does not grow.
        self._size = min(grown, length) if self._rejected else grown
        self._previous_error, self._rejected = error, False


def _with_randomness(record: SolverStep, step: Step) -> SolverStep:
    if step.slopes[0] is None or step.slopes[0].random is None:
        return record
    return replace(record, random=tuple(None if k is None else k.random for k in step.slopes))


def _call(system: System, callback: Callback | None, start: float, dt: float, y: Tensor) -> None:
    if callback is not None:
        callback(system.time(start, y), system.given(y), system.time(dt, y))


def _error_norm(settings: AdaptiveController, step: Step, y: Tensor, q: Tensor | None, *, last: bool) -> float:
    """The norm of the step's scaled error on the host: the one read of the device in an attempted step."""
    with torch.no_grad():
        error = float(settings.norm(_scaled_errors(settings, step, y, q, _doubt(step, y, last=last))))
        if not math.isfinite(error):
            parts = _scaled_errors(settings, step, y, q, 0.0)
            error = float(settings.norm(control.careful(parts, _rates(step), [step.y])))
        return error


def _doubt(step: Step, y: Tensor, *, last: bool) -> Tensor | float:
    """0, or NaN where the step must not pass for a success whatever its error; 0-dim and real, or a float.

    It goes into the errors, not beside their norm: ranks that share the norm must share the doubt of one of them.
    """
    doubt: Tensor | float = 0.0
    if step.q_error is None and step.q is not None:
        # Quadratures outside the error control: a NaN among them.
        doubt = 0.0 * step.q.sum()
    if last:
        # A state that overflowed has a tolerance without bound.
        doubt = torch.where(torch.isfinite(step.y).all(), doubt, torch.nan)
    # In the tolerance's own precision, to which it is added.
    return doubt.to(real_dtype(y)) if isinstance(doubt, Tensor) else doubt


def _scaled_errors(
    settings: AdaptiveController, step: Step, y: Tensor, q: Tensor | None, doubt: Tensor | float
) -> list[Tensor]:
    assert step.error is not None
    parts = [control.scaled(settings, step.error, y, step.y, doubt)]
    if step.q_error is not None and q is not None and step.q is not None:
        parts.append(control.scaled(settings, step.q_error, q, step.q))
    return parts


def _outputs_between(
    times: list[float], cursor: int, start: float, end: float, end_is_tied: bool
) -> tuple[tuple[tuple[int, float], ...], int]:
    """Requested times in (start, end], without one to which the end is tied; and the cursor after the step."""
    direction = 1.0 if end > start else -1.0
    inside = []
    while cursor < len(times) and direction * (end - times[cursor]) >= 0:
        if not (end_is_tied and times[cursor] == end):
            inside.append((cursor, (times[cursor] - start) / (end - start)))
        cursor += 1
    return tuple(inside), cursor


def _emit(
    problem: Problem,
    outputs: Outputs,
    record: SolverStep,
    step: Step,
    y: Tensor,
    q: Tensor | None,
    t: Tensor | None,
) -> None:
    """Give out the solution at the requested times within this step."""
    h = record.interval(t).length
    for index, theta in record.outputs:
        weights = problem.tableau.dense_weights(record.theta(index, theta, t))
        outputs.append(*interpolate(problem.tableau, step, y, q, h, weights))
    if record.end_tie is not None:
        outputs.append(step.y, step.q)


def _count(stats: Stats, record: SolverStep, evaluations: int) -> None:
    stats.nfe_forward += evaluations
    stats.accepted += 1
    stats.dt_min = min(stats.dt_min, abs(record.length))
    stats.dt_max = max(stats.dt_max, abs(record.length))
