"""The solution as a function of time."""

from __future__ import annotations

import bisect
from typing import Any

import torch
from torch import Tensor

from symadj_core.odeint_options import Tolerance, controller_of, method_of
from symadj_core.solve import checked_times
from symadj_core.solvers.moving import Time, moving
from symadj_core.solvers.precision import precision_of, time_spacing, widened
from symadj_core.solvers.problem import Problem, Stats
from symadj_core.solvers.step import Step, interpolate
from symadj_core.solvers.system import Field, System
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import Outputs, SolverStep, march
from symadj_core.state_form import StateForm


class DenseOutput:
    """y(t) by the method's interpolant; differentiable by backprop if it was made in grad mode.

    Keeps the slopes of every step: memory O(N s) states.
    """

    def __init__(
        self,
        tableau: ButcherTableau,
        records: list[SolverStep],
        steps: list[Step],
        dtype: torch.dtype,
        time_dtypes: list[torch.dtype],
    ) -> None:
        self._tableau, self._records, self._steps = tableau, records, steps
        self._dtype, self._time_dtypes = dtype, time_dtypes
        self._direction = 1.0 if records[0].length > 0 else -1.0
        self._ends = [self._direction * record.end for record in records]

    def __call__(self, t: Tensor | float) -> Tensor:
        """States at the times t: [*t.shape, *y.shape].

        Raises:
            ValueError: a time lies outside the interval that was solved, by more than its dtype rounds.
        """
        t = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
        flat = t.reshape(-1)
        states = [self._at(value, flat[i]) for i, value in enumerate(flat.tolist())]
        return torch.stack(states).view(*t.shape, *states[0].shape).to(self._dtype)

    def _at(self, value: float, t: Tensor) -> Tensor:
        value = self._within(value, t.dtype)
        position = bisect.bisect_left(self._ends, self._direction * value)
        record, step = self._records[position], self._steps[position]
        position_in_step = (value - record.start) / record.length
        theta: Time = position_in_step
        if t.requires_grad:
            theta = moving(position_in_step, (t - record.start) / record.length)
        weights = self._tableau.dense_weights(theta)
        return interpolate(self._tableau, step, step.states[0], None, record.length, weights)[0]

    def _within(self, value: float, dtype: torch.dtype) -> float:
        """The time itself, or the end beyond which a rounding moved it: its own or that of the end."""
        start, end = self._records[0].start, self._records[-1].end
        inside = min(max(value, min(start, end)), max(start, end))
        floating = [d for d in (dtype, *self._time_dtypes) if d.is_floating_point]
        rounding = max((time_spacing(d, inside) for d in floating), default=0.0)
        if not abs(value - inside) <= rounding:
            raise ValueError(f"t = {value} is outside [{start}, {end}]")
        return inside


def odeint_dense(
    func: Field,
    y0: Tensor,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
) -> DenseOutput:
    """As torchdiffeq's: the solution from t0 to t1 as a function of time, by any of the methods.

    Args:
        func, y0, rtol, atol, method, options: as for `symadj_core.odeint.odeint`; y0 is a tensor.
        t0, t1: start and end, 0-dim.

    Raises:
        SolverError: the end was not reached.
    """
    settings = dict(options or {})
    tableau = method_of(method, {"interp": "cubic", **settings})
    controller = controller_of(tableau, rtol, atol, settings, form=StateForm(y0), field=func, y0=y0, like=y0)
    ends = [x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in (t0, t1)]
    t = torch.stack([end.double().reshape(()) for end in ends])
    records: list[SolverStep] = []
    steps: list[Step] = []

    def on_step(record: SolverStep, step: Step) -> None:
        records.append(record)
        steps.append(step)

    times = checked_times(t, y0)
    system = System(func, None, precision_of(y0, times[0], times[-1]))
    problem = Problem(system, widened(y0), None, t, times, tableau, controller, (), (), False, Stats())
    march(problem, Outputs(y0, None), on_step, always_dense=True)
    return DenseOutput(tableau, records, steps, y0.dtype, [end.dtype for end in ends])
