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
        "rate, clip gradients, or use a smaller fixed step"
    ),
}


class SolverError(RuntimeError):
    """A solve that could not reach its end time.

    Attributes:
        reason: "underflow_in_dt", "max_steps" or "non_finite".
        t: time at which the solve stopped, in units of the time axis.
        dt: size (signed) of the step being attempted.
        step: number of accepted steps before it.
    """

    def __init__(self, reason: Status, *, t: float, dt: float, step: int) -> None:
        self.reason = reason.value
        self.t = t
        self.dt = dt
        self.step = step
        self._arguments = (reason, t, dt, step)
        super().__init__(f"{reason.value} at t={t:.9g}, dt={dt:.3g}, step {step}: {_ADVICE[reason]}")

    def __reduce__(self) -> tuple[Callable[..., SolverError], tuple[Status, float, float, int]]:
        # Exceptions are pickled with their message alone, and this one must come home from another process.
        return _solver_error, self._arguments


def _solver_error(reason: Status, t: float, dt: float, step: int) -> SolverError:
    return SolverError(reason, t=t, dt=dt, step=step)
