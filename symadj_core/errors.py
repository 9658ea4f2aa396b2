"""The errors of the solvers.

Every failed solve names the time, the step size and the step where it happened, and what to try, because
"underflow in dt" alone is what users of continuous flows complain of most.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Status(StrEnum):
    """How a solve ended; the failing values are also the `reason` of a `SolverError`."""

    SUCCESS = "success"
    UNDERFLOW_IN_DT = "underflow_in_dt"
    MAX_STEPS = "max_steps"
    NON_FINITE = "non_finite"
    OVERFLOW = "overflow"
    NO_EVENT = "no_event"


_ADVICE = {
    Status.UNDERFLOW_IN_DT: (
        "the step size fell below the smallest one allowed: the vector field has become stiff or discontinuous "
        "there; loosen rtol/atol, lower min_step, regularise the field (kinetic energy), use a smaller learning "
        "rate or float64, or declare discontinuities with jump_t"
    ),
    Status.MAX_STEPS: (
        "the step limit was reached: raise max_steps, loosen rtol/atol, or regularise the field so that it needs "
        "fewer steps"
    ),
    Status.NON_FINITE: (
        "the vector field returned NaN or infinity: look at the inputs for non-finite values, lower the learning "
        "rate, clip gradients, or use a smaller fixed step; in float16, whose largest number is 65504, use bfloat16 or "
        "float32"
    ),
    Status.OVERFLOW: (
        "the state left the range of its dtype, though the vector field was finite: scale the state, use more "
        "precision, or a smaller fixed step"
    ),
    Status.NO_EVENT: (
        "the event function crossed zero in no step up to here: if it crosses and comes back within one step it goes "
        "unseen, so limit the steps (options={'max_step': ...}, or step_size for fixed steps); look at its sign and at "
        "the direction of time, too"
    ),
}


class SolverError(RuntimeError):
    """A solve that could not reach its end time.

    Attributes:
        reason: a failing `Status`, such as "underflow_in_dt".
        t: time at which the solve stopped, in units of the time axis.
        dt: size (signed) of the step being attempted.
        step: number of accepted steps before it.
    """

    def __init__(self, reason: Status, *, t: float, dt: float, step: int, before_event: bool = False) -> None:
        self.reason = reason.value
        self.t = t
        self.dt = dt
        self.step = step
        self._arguments = (reason, t, dt, step, before_event)
        advice = _ADVICE[reason]
        if before_event:
            advice += f"; until then, {_ADVICE[Status.NO_EVENT]}"
        super().__init__(f"{reason.value} at t={t:.9g}, dt={dt:.3g}, step {step}: {advice}")

    def before_event(self) -> SolverError:
        """The same error with what to try where an event was searched for, and none was found before it."""
        reason, t, dt, step, _before_event = self._arguments
        return SolverError(reason, t=t, dt=dt, step=step, before_event=True)

    def __reduce__(self) -> tuple[Callable[..., SolverError], tuple[Status, float, float, int, bool]]:
        # Exceptions are pickled with their message alone, and this one must come home from another process.
        return _solver_error, self._arguments


def _solver_error(reason: Status, t: float, dt: float, step: int, before_event: bool) -> SolverError:
    return SolverError(reason, t=t, dt=dt, step=step, before_event=before_event)


class PluginError(Exception):
    """A field of an installed package that can't be had; the message names the package and says what to do."""


class LoadError(Exception):
    """Files that no trained flow can be made of; the message says which, why, and what to do."""
