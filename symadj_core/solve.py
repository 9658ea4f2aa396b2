"""The one entry: `solve(field, y0, t, ...) -> Solution`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Never

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn.parameter import is_lazy

from symadj_core.errors import SolverError, Status
from symadj_core.gradients import GRADIENTS, GradientMethod
from symadj_core.gradients.discovery import discover_parameters, modules_of
from symadj_core.registry import refuse_options
from symadj_core.solvers.controller import CONTROLLERS, AdaptiveController, Controller, FixedStep, IController
from symadj_core.solvers.precision import precision_of, widened
from symadj_core.solvers.problem import Callbacks, Problem, Stats
from symadj_core.solvers.system import Field, Quadrature, System
from symadj_core.solvers.tableaus import TABLEAUS, ButcherTableau
from symadj_core.solvers.timeloop import Outputs


@dataclass(frozen=True)
class Solution:
    """The result of a solve.

    Attributes:
        ys: [T, *y.shape], the states at the requested times, ys[0] = y0. NaN where a failed solve did not arrive.
        quadratures: [T, *q.shape], or None without quadratures.
        ts: [T], the requested times.
        stats: counts; nfe_backward grows as backward runs.
        status: how the solve ended.
    """

    ys: Tensor
    quadratures: Tensor | None
    ts: Tensor
    stats: Stats
    status: Status


def solve(
    field: Field,
    y0: Tensor,
    t: Tensor,
    *,
    solver: str | ButcherTableau = "dopri5",
    controller: str | Controller | None = None,
    gradient: str | GradientMethod = "symplectic",
    quadrature: Quadrature | None = None,
    parameters: Iterable[Tensor] | None = None,
    callbacks: Callbacks | None = None,
    throw: bool = True,
    **unknown: Never,
) -> Solution:
    """Integrate y' = field(t, y) from y(t[0]) = y0 over the times t.

    Gradients flow to y0, to the initial quadratures, to every entry of t and to the parameters. All methods but
    "adjoint" return the exact derivative of the computed solution with its accepted steps frozen: grid points that are
    entries of t move with them, all others are constants.

    Args:
        field: f(t, y) -> dy/dt, t a 0-dim tensor, y and dy/dt of y0's shape and dtype. A module, or any callable.
        y0: initial state, any shape, floating or complex.
        t: [T], T >= 2, strictly increasing or decreasing; a tensor, or a list or an array of numbers. Interior times
            are answered by interpolation.
        solver: a tableau or its name in `symadj_core.tableaus.TABLEAUS`; "rk4" is the classical one and "rk4_38"
            Kutta's 3/8 rule, which torchdiffeq calls rk4.
        controller: step sizes, or a name in `symadj_core.controllers.CONTROLLERS`; the default is `IController()` for
            methods with an error estimate, otherwise `FixedStep()`.
        gradient: a method or its name in `symadj_core.gradients.GRADIENTS`.
        quadrature: running integrals beside the state.
        parameters: tensors whose gradients are wanted. None finds them: those of `field` if it is a module (or a
            method of one), else all that one trial use of the field depends on; backward checks
            once a step that the field uses no others.
        callbacks: called with every step of the forward solve.
        throw: raise if the end is not reached; otherwise return with the status and NaN states, without gradient.

    Raises:
        SolverError: the end was not reached (only with `throw`).
        ValueError, TypeError: an argument is invalid; the message names it.
    """
    refuse_options("solve", unknown, {"controller": CONTROLLERS, "gradient": GRADIENTS})
    tableau = TABLEAUS.find(solver)
    method = GRADIENTS.make(gradient)
    if not isinstance(tableau, ButcherTableau):
        raise TypeError(f"solver must be a name or a ButcherTableau, not {solver!r}")
    if not isinstance(method, GradientMethod):
        raise TypeError(f"gradient must be a name or a gradient method such as Symplectic(), not {gradient!r}")
    t = requested_times(t)
    times = checked_times(t, y0)
    precision = precision_of(y0, times[0], times[-1])
    asked, y0 = y0.dtype, widened(y0)
    controller = default_controller(tableau) if controller is None else CONTROLLERS.make(controller)
    if isinstance(controller, AdaptiveController) and tableau.error is None:
        raise ValueError(f"{tableau.name} has no error estimate: use FixedStep, or an adaptive solver")
    system = System(field, None if quadrature is None else quadrature.rates, precision)
    modules = modules_of(field)
    stats = Stats()
    owner = getattr(field, "__self__", field)
    own = tuple(p for p in owner.parameters() if p.requires_grad) if isinstance(owner, nn.Module) else ()
    if parameters is not None:
        wanted = tuple(parameters)
    elif own:
        wanted = own
    elif method.needs_parameters and torch.is_grad_enabled():
        wanted = discover_parameters(system, times[0], y0, modules, with_quadrature=quadrature is not None)
        stats.nfe_forward += system.evaluations
    else:
        wanted = ()
    if any(is_lazy(p) for p in wanted):
        raise ValueError("the field has lazy parameters without a shape yet: use it once before the solve")
    wanted = tuple({id(p): p for p in wanted if p.requires_grad}.values())
    closed = parameters is None
    q0 = None if quadrature is None else widened(quadrature.initial)
    problem = Problem(
        system, y0, q0, t, times, tableau, controller, wanted, modules, closed, stats, callbacks or Callbacks()
    )
    outputs = Outputs(y0, q0)
    try:
        ys, qs = method.integrate(problem, outputs)
        given = ys.to(asked)
        if asked != ys.dtype and not bool(torch.isfinite(given).all()):
            raise SolverError(Status.OVERFLOW, t=times[-1], dt=0.0, step=stats.accepted)
    except SolverError as error:
        if throw:
            raise
        ys, qs = _unfinished(outputs, len(times))
        return Solution(ys.to(asked), _as_given(qs, quadrature), t, stats, Status(error.reason))
    return Solution(given, _as_given(qs, quadrature), t, stats, Status.SUCCESS)


def _as_given(qs: Tensor | None, quadrature: Quadrature | None) -> Tensor | None:
    """The quadratures in the precision of their initial values."""
    return None if qs is None or quadrature is None else qs.to(quadrature.initial.dtype)


def default_controller(tableau: ButcherTableau) -> Controller:
    """`IController()` if the method estimates its error, otherwise a grid of the requested times."""
    return FixedStep() if tableau.error is None else IController()


def checked_times(t: Tensor, y0: Tensor) -> list[float]:
    """t as floats.

    Raises:
        TypeError, ValueError: t or y0 is invalid.
    """
    if not isinstance(y0, Tensor) or not (y0.is_floating_point() or y0.is_complex()):
        given = f"a tensor of {y0.dtype}" if isinstance(y0, Tensor) else f"a {type(y0).__name__}"
        raise TypeError(f"y0 must be a floating point or complex tensor, not {given}")
    if is_batchedtensor(y0):
        raise RuntimeError(
            "torch.func.vmap over a solve is not possible, since all samples share its steps: batch the state"
        )
    if len(t) < 2:
        raise ValueError(f"t must have at least two times, a start and an end, not {len(t)}")
    times: list[float] = t.detach().double().tolist()
    steps = [b - a for a, b in pairwise(times)]
    if not (all(s > 0 for s in steps) or all(s < 0 for s in steps)) or not all(map(math.isfinite, times)):
        sign = 1 if times[-1] > times[0] else -1
        place = next((n for n, s in enumerate(steps) if not (sign * s > 0 and math.isfinite(s))), 0)
        raise ValueError(
            "t must be strictly increasing or strictly decreasing, and finite: "
            f"t[{place}] = {times[place]:g} is followed by {times[place + 1]:g}"
        )
    return times


def requested_times(t: Any) -> Tensor:
    """The times as a 1-D floating point tensor: what is given, or float64 from whole numbers, a list or an array.

    Raises:
        TypeError, ValueError: it is something else.
    """
    try:
        if not isinstance(t, Tensor):
            parts = isinstance(t, list | tuple) and any(isinstance(x, Tensor) for x in t)
            t = torch.stack([torch.as_tensor(x) for x in t]) if parts else torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"t must be a tensor of times, or a list or an array of numbers, not {t!r}") from error
    if t.dim() != 1:
        shape = "a single time" if t.dim() == 0 else f"of shape {list(t.shape)}"
        raise ValueError(f"t must be 1-D, all times at which the state is wanted, the start first; it is {shape}")
    if t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"t must hold real numbers, not {t.dtype}")
    times: Tensor = t if t.is_floating_point() else t.double()
    return times


def _unfinished(outputs: Outputs, count: int) -> tuple[Tensor, Tensor | None]:
    with torch.no_grad():
        missing = count - len(outputs.states)
        for _ in range(missing):
            rate = torch.full_like(outputs.quadratures[0], torch.nan) if outputs.quadratures else None
            outputs.append(torch.full_like(outputs.states[0], torch.nan), rate)
        ys, qs = outputs.stacked()
    return ys.detach(), None if qs is None else qs.detach()
