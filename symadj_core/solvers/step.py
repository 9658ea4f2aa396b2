"""One explicit Runge-Kutta step; nothing adaptive in it.

The same code runs under `no_grad` and with the graph, so that every gradient method differentiates the same
floating-point map. Increments are summed first and added to the state last, which halves the rounding error of
long solves in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from symadj_core.solvers.moving import Moving, Time, value_of
from symadj_core.solvers.randomness import RandomState
from symadj_core.solvers.system import Slope, System
from symadj_core.solvers.tableaus import ButcherTableau


@dataclass(frozen=True)
class Interval:
    """The time interval of one step. A jump of the field at either end is approached from within the interval."""

    start: Time
    end: Time
    jump_at_start: bool = False
    jump_at_end: bool = False

    @property
    def length(self) -> Time:
        return self.end - self.start

    def at(self, c: float, dtype: torch.dtype) -> Time:
        """The time of node c, to be given to a field in that dtype."""
        if c == 1.0:
            return _neighbour(self.end, self.start, dtype) if self.jump_at_end else self.end
        if c == 0.0:
            return _neighbour(self.start, self.end, dtype) if self.jump_at_start else self.start
        return self.start + c * self.length


def _neighbour(t: Time, towards: Time, dtype: torch.dtype) -> Time:
    """The next time beside t that the dtype can tell from it."""
    here, there = (torch.tensor(value_of(x), dtype=dtype, device="cpu") for x in (t, towards))
    beside = float(torch.nextafter(here, there))
    return Moving(beside, t.shift) if isinstance(t, Moving) else beside


class Wanted(NamedTuple):
    """What a step must compute beside its end state."""

    error: bool = False
    quadrature_error: bool = False
    dense: bool = False
    # The derivative at the end of the step serves as the first slope of the next one.
    next_slope: bool = False


class Step(NamedTuple):
    """The result of one step. `slopes` ends with the end slot: the slope at the end of the step, or None."""

    y: Tensor
    q: Tensor | None
    states: list[Tensor]
    slopes: list[Slope | None]
    error: Tensor | None
    q_error: Tensor | None


def weighted_sum(terms: Iterable[tuple[Time, Tensor | None]]) -> Tensor | None:
    """sum w x over the terms with w != 0 and x present; None if there is no such term. One buffer is used."""
    total: Tensor | None = None
    for weight, x in terms:
        if x is None or (not isinstance(weight, Moving) and weight == 0.0):
            continue
        number = value_of(weight)
        total = x * number if total is None else total.add_(x, alpha=number)
        if isinstance(weight, Moving):
            total = total + x * weight.shift
    return total


def advance(x: Tensor, h: Time, increment: Tensor | None) -> Tensor:
    """x + h * increment."""
    if increment is None:
        return x
    result = torch.add(x, increment, alpha=value_of(h))
    return result + increment * h.shift if isinstance(h, Moving) else result


def _state_parts(slopes: Sequence[Slope | None]) -> list[Tensor | None]:
    return [None if slope is None else slope.state for slope in slopes]


def _quadrature_parts(slopes: Sequence[Slope | None]) -> list[Tensor | None]:
    return [None if slope is None else slope.quadrature for slope in slopes]


def stage_state(tableau: ButcherTableau, i: int, h: Time, y: Tensor, slopes: Sequence[Slope | None]) -> Tensor:
    """Y_i = y + h sum_{j<i} a_ij k_j."""
    return advance(y, h, weighted_sum(zip(tableau.a[i], _state_parts(slopes[:i]), strict=True)))


def take_step(
    system: System,
    tableau: ButcherTableau,
    interval: Interval,
    y: Tensor,
    q: Tensor | None,
    first: Slope | None,
    wanted: Wanted,
    random: Sequence[RandomState | None] = (),
) -> Step:
    """One step over the interval from (y, q).

    Args:
        system: what is integrated.
        tableau: the method.
        interval: start and end time; the length may be negative.
        y: state at the start, any shape.
        q: quadratures at the start, or None.
        first: the slope at the start where it is known already (with its quadrature part if q is not None).
        random: the generators' states for each slope, where a step is taken again.
        wanted: what else to compute. Rates of the quadratures are left out at stages where they have no weight.
    """
    h = interval.length
    count = tableau.stages
    error_weights = tableau.error_weights if wanted.error else (0.0,) * (count + 1)
    with_q = q is not None

    def slope(slot: int, c: float, state: Tensor, rate: bool) -> Slope:
        drawn = random[slot] if random else None
        return system.slope(interval.at(c, system.precision.time), state, with_quadrature=rate, random=drawn)

    def needs_rate(i: int) -> bool:
        weighs = i < count and tableau.b[i] != 0.0
        weighs = weighs or (wanted.quadrature_error and error_weights[i] != 0.0)
        return with_q and (weighs or (wanted.dense and any(tableau.dense_rows[i])))

    states: list[Tensor] = []
    slopes: list[Slope | None] = []
    version = 0
    for i in range(count):
        state = y if i == 0 else stage_state(tableau, i, h, y, slopes)
        states.append(state)
        if i == 0 and first is not None:
            slopes.append(first)
        else:
            slopes.append(slope(i, tableau.c[i], state, needs_rate(i)))
        if i == 0:
            version = _version(slopes[0])
    if _version(slopes[0]) != version:
        raise RuntimeError(
            "the field overwrote the tensor that it had returned at its last use (an out= argument, a buffer of its "
            "own): return a new tensor at every use"
        )

    b = tableau.b[:count]
    y_end = advance(y, h, weighted_sum(zip(b, _state_parts(slopes), strict=True)))
    q_end = advance(q, h, weighted_sum(zip(b, _quadrature_parts(slopes), strict=True))) if q is not None else None

    dense_end = wanted.dense and any(tableau.dense_rows[count])
    error_end = wanted.error and error_weights[count] != 0.0
    if dense_end or error_end or (wanted.next_slope and tableau.fsal):
        slopes.append(slope(count, 1.0, y_end, needs_rate(count) or (with_q and wanted.next_slope)))
    else:
        slopes.append(None)

    error = q_error = None
    if wanted.error:
        error = _times(h, weighted_sum(zip(error_weights, _state_parts(slopes), strict=True)))
    if wanted.quadrature_error:
        q_error = _times(h, weighted_sum(zip(error_weights, _quadrature_parts(slopes), strict=True)))
    return Step(y_end, q_end, states, slopes, error, q_error)


def _version(slope: Slope | None) -> int:
    """How often the slope was written to."""
    return 0 if slope is None or slope.state.is_inference() else slope.state._version


def _times(h: Time, x: Tensor | None) -> Tensor | None:
    return None if x is None else x * value_of(h)


def interpolate(
    tableau: ButcherTableau, step: Step, y: Tensor, q: Tensor | None, h: Time, weights: Sequence[Time]
) -> tuple[Tensor, Tensor | None]:
    """(y, q) inside the step that began at (y, q), for `weights` = `tableau.dense_weights(theta)`."""
    state = advance(y, h, weighted_sum(zip(weights, _state_parts(step.slopes), strict=True)))
    if q is None:
        return state, None
    return state, advance(q, h, weighted_sum(zip(weights, _quadrature_parts(step.slopes), strict=True)))
