"""torchdiffeq's arguments (version 0.2.5) in terms of tableaus and controllers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from symadj_core.solvers import tableaus
from symadj_core.solvers.controller import Controller, FixedStep, IController, Norm, rms_norm
from symadj_core.solvers.problem import Callbacks
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.state_form import StateForm

# torchdiffeq's rk4 is Kutta's 3/8 rule.
_OTHER_NAMES = {"rk4": "rk4_38", "rk4_classic": "rk4"}

# Methods of torchdiffeq 0.2.5 that are no Runge-Kutta methods, and what to use instead.
_MULTISTEP = "a multistep method, for which there is no symplectic adjoint: use 'rk4' with options={'step_size': ...}"
_ELSEWHERE = {
    "scipy_solver": (
        "which solves in numpy, without a gradient of its own: use 'dopri5', 'tsit5' or 'dopri8', or call "
        "scipy.integrate.solve_ivp if the equation is stiff"
    ),
    "explicit_adams": _MULTISTEP,
    "implicit_adams": _MULTISTEP,
    "fixed_adams": _MULTISTEP,
}

_ADAPTIVE = {
    "first_step": "first_step",
    "min_step": "min_step",
    "max_step": "max_step",
    "max_num_steps": "max_steps",
    "safety": "safety",
    "ifactor": "max_factor",
    "dfactor": "min_factor",
}
# Times are always float64 on the host.
_IGNORED = {"dtype", "norm"}
_FIXED = {"step_size", "grid_constructor", "interp", "perturb"}

Tolerance = float | Tensor | Sequence[float | Tensor]


def method_of(name: str | None, options: dict[str, Any]) -> ButcherTableau:
    """The tableau of a torchdiffeq method name, with the interpolation that the options ask for.

    Raises:
        ValueError: no such method or interpolation.
    """
    if name in _ELSEWHERE:
        raise ValueError(f"there is no method {name!r} here, {_ELSEWHERE[name]}")
    tableau = tableaus.by_name(_OTHER_NAMES.get(name or "dopri5", name or "dopri5"))
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ValueError(f"unknown interpolation {interp!r}: 'linear' or 'cubic'")
    if tableau.error is None and interp == "linear":
        rows = (*((b,) for b in tableau.b), (0.0,))
        return dataclasses.replace(tableau, dense=rows)
    return tableau


def controller_of(
    tableau: ButcherTableau,
    rtol: Tolerance,
    atol: Tolerance,
    options: dict[str, Any],
    *,
    form: StateForm,
    field: Callable[..., Any],
    y0: Any,
    like: Tensor,
) -> Controller:
    """Step sizes from torchdiffeq's tolerances and options. An option that the method does not know is warned of.

    Args:
        tableau: the method.
        rtol, atol: numbers, tensors, or one of them for each tensor of the state.
        options: torchdiffeq's.
        form: of the state.
        field, y0: handed to `grid_constructor`, as torchdiffeq does.
        like: the state as one tensor.
    """
    known = _FIXED if tableau.error is None else {*_ADAPTIVE, "step_t", "jump_t"}
    unknown = sorted(set(options) - known - _IGNORED)
    if unknown:
        warnings.warn(f"{tableau.name}: unexpected options {', '.join(unknown)}", stacklevel=4)
    if tableau.error is None:
        construct = options.get("grid_constructor")
        if construct is not None and options.get("step_size") is not None:
            raise ValueError("step_size and grid_constructor are mutually exclusive options")

        def grid(times: list[float]) -> list[float]:
            assert construct is not None
            points: list[float] = construct(field, y0, torch.tensor(times, dtype=torch.float64)).tolist()
            return points

        step_size = None if options.get("step_size") is None else abs(float(options["step_size"]))
        return FixedStep(step_size, None if construct is None else grid, bool(options.get("perturb", False)))
    settings = {ours: _number(options[theirs]) for theirs, ours in _ADAPTIVE.items() if theirs in options}
    settings.update({name: _floats(options[name]) for name in ("step_t", "jump_t") if name in options})
    return IController(
        rtol=_tolerance("rtol", rtol, form, like),
        atol=_tolerance("atol", atol, form, like),
        accept_at_min_step=True,
        norm=norm_of(options.get("norm"), form),
        **settings,
    )


def norm_of(norm: Callable[[Any], Any] | None, form: StateForm) -> Norm:
    """A norm of torchdiffeq's kind (of the state as the user sees it) as one of ours."""
    if form.is_tensor:
        return rms_norm if norm is None else lambda parts: torch.as_tensor(norm(parts[0]))

    def of_parts(parts: Sequence[Tensor]) -> Tensor:
        if norm is not None:
            return torch.as_tensor(norm(form.split(parts[0])))
        return torch.stack([rms_norm([piece]) for piece in form.parts(parts[0]) if piece.numel() > 0]).max()

    return of_parts


def callbacks_of(field: Any, form: StateForm, tableau: ButcherTableau, suffix: str = "") -> Callbacks:
    """The functions callback_step, callback_accept_step and callback_reject_step of the field, where it has them.

    Those that the method never calls are warned of.
    """
    if tableau.error is None:
        idle = [f"callback_{what}_step{suffix}" for what in ("accept", "reject")]
        idle = [name for name in idle if hasattr(field, name)]
        if idle:
            warnings.warn(f"{tableau.name} takes fixed steps, and never calls {', '.join(idle)}", stacklevel=4)

    def wrapped(name: str) -> Callable[[Tensor, Tensor, Tensor], None] | None:
        callback = getattr(field, name + suffix, None)
        if callback is None:
            return None
        # torchdiffeq gives the size of a step, not its direction.
        if form.is_tensor or suffix:
            return lambda t0, y0, dt: callback(t0, y0, dt.abs())
        return lambda t0, y0, dt: callback(t0, form.split(y0), dt.abs())

    return Callbacks(wrapped("callback_step"), wrapped("callback_accept_step"), wrapped("callback_reject_step"))


def _number(x: Any) -> Any:
    return x.item() if isinstance(x, Tensor) else x


def _floats(x: Any) -> tuple[float, ...]:
    return () if x is None else tuple(float(v) for v in x)


def _tolerance(name: str, tolerance: Tolerance, form: StateForm, like: Tensor) -> float | Tensor:
    if isinstance(tolerance, Tensor):
        return float(tolerance) if tolerance.dim() == 0 else tolerance.to(like.device)
    if not isinstance(tolerance, Sequence):
        return float(tolerance)
    if len(tolerance) != form.top:
        raise ValueError(
            f"{name} has a tolerance for each of {len(tolerance)} tensors, which needs a tuple y0 of that many tensors"
        )
    parts = [torch.as_tensor(x, dtype=torch.float64) for x in tolerance]
    flat = [x.expand(s).flatten() if x.dim() else x.expand(s.numel()) for x, s in zip(parts, form.shapes, strict=True)]
    return torch.cat(flat).to(like.device, like.real.dtype)
