"""The solution as a function of time."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from symadj_core.odeint_options import Tolerance, controller_of, method_of
from symadj_core.solve import checked_times
from symadj_core.solvers.controller import Controller
from symadj_core.solvers.moving import Time, moving
from symadj_core.solvers.problem import Problem, Stats
from symadj_core.solvers.step import Step, interpolate
from symadj_core.solvers.system import Field, System
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import Outputs, SolverStep, march


class DenseOutput:
    """y(t) by the method's interpolant; differentiable by backprop if it was made in grad mode.

    Keeps the slopes of every step: memory O(N s) states.
    """

    def __init__(self, tableau: ButcherTableau, records: list[SolverStep], steps: list[Step]) -> None:
        self._tableau, self._records, self._steps = tableau, records, steps
        self._direction = 1.0 if records[0].length > 0 else -1.0
        self._ends = [self._direction * record.end for record in records]

    def __call__(self, t: Tensor) -> Tensor:
        """States at the times t: [*t.shape, *y.shape].

        Raises:
            ValueError: a time lies outside the interval that was solved.
        """
        flat = t.reshape(-1)
        states = [self._at(value, flat[i]) for i, value in enumerate(flat.tolist())]
        return torch.stack(states).view(*t.shape, *states[0].shape)

    def _at(self, value: float, t: Tensor) -> Tensor:
        position = bisect.bisect_left(self._ends, self._direction * value)
        before = self._direction * (value - self._records[0].start) < 0
        if before or position == len(self._ends):
            raise ValueError(f"t = {value} is outside [{self._records[0].start}, {self._records[-1].end}]")
        record, step = self._records[position], self._steps[position]
        position_in_step = (value - record.start) / record.length
        theta: Time = position_in_step
        if t.requires_grad:
            theta = moving(position_in_step, (t - record.start) / record.length)
        weights = self._tableau.dense_weights(theta)
        return interpolate(self._tableau, step, step.states[0], None, record.length, weights)[0]


def dense_solve(field: Field, y0: Tensor, t: Tensor, tableau: ButcherTableau, controller: Controller) -> DenseOutput:
    """Integrate over t = [start, end] and return the solution as a function of time."""
    records: list[SolverStep] = []
    steps: list[Step] = []

    def on_step(record: SolverStep, step: Step) -> None:
        records.append(record)
        steps.append(step)

    times = checked_times(t, y0)
    problem = Problem(System(field, None), y0, None, t, times, tableau, controller, (), (), False, Stats())
    march(problem, Outputs(y0, None), on_step, always_dense=True)
    return DenseOutput(tableau, records, steps)


def odeint_dense(
    func: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t0: Tensor,
    t1: Tensor,
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
    controller = controller_of(tableau, rtol, atol, settings, shapes=None, field=func, y0=y0, like=y0)
    ends = torch.stack([torch.as_tensor(x, dtype=torch.float64).reshape(()) for x in (t0, t1)])
    return dense_solve(func, y0, ends, tableau, controller)
