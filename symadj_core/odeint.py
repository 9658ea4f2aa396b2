"""torchdiffeq-shaped functions: existing code changes only its import.

They take the arguments of torchdiffeq 0.2.5 and differ only in how the gradient is made:

    odeint                      backprop through the solver
    odeint_adjoint              continuous adjoint, not exact
    odeint_onecheckpoint        one checkpoint, solved again with its graph
    odeint_checkpoint           adaptive checkpoint adjoint (ACA)
    odeint_symplectic_adjoint   symplectic adjoint: exact, least memory

New code should call `symadj_core.solve`, which also returns counts and a status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from symadj_core.gradients import ACA, Adjoint, Backprop, GradientMethod, OneCheckpoint, Symplectic
from symadj_core.gradients.keep import Keep
from symadj_core.odeint_options import Shapes, Tolerance, callbacks_of, controller_of, method_of, split
from symadj_core.solve import solve
from symadj_core.solvers import events

State: TypeAlias = Any  # a tensor or a tuple of tensors; the field returns what it is given
Options: TypeAlias = dict[str, Any] | None
EventFunction = Callable[[Tensor, State], Tensor]


class _TupleField(nn.Module):
    """A field over a tuple of tensors as one over their concatenation. It is a module so that its parameters are found.

    Args:
        owner: the module that the field is, or whose method it is.
        field: (t, tuple) -> tuple.
        shapes: of the tuple's tensors.
    """

    def __init__(self, owner: nn.Module, field: Callable[..., Any], shapes: Shapes) -> None:
        super().__init__()
        self.owner = owner
        self.call = field
        self.shapes = shapes

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return _joined(self.call(t, split(y, self.shapes)))


def _joined(state: Iterable[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in state])


def _on_flat(function: Callable[[Tensor, State], Any], shapes: Shapes) -> Callable[[Tensor, Tensor], Any]:
    return lambda t, y: function(t, split(y, shapes))


def _flat_field(field: Callable[..., Any], shapes: Shapes | None) -> Callable[[Tensor, Tensor], Tensor]:
    if shapes is None:
        return field
    owner = getattr(field, "__self__", field)
    if isinstance(owner, nn.Module):
        return _TupleField(owner, field, shapes)
    on_flat = _on_flat(field, shapes)
    return lambda t, y: _joined(on_flat(t, y))


def _integrate(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    gradient: GradientMethod,
    rtol: Tolerance,
    atol: Tolerance,
    method: str | None,
    options: Options,
    event_fn: EventFunction | None,
    parameters: Iterable[Tensor] | None,
) -> Any:
    """The body that the five functions share."""
    options = dict(options or {})
    shapes = None if isinstance(y0, Tensor) else [x.shape for x in y0]
    flat = y0 if isinstance(y0, Tensor) else _joined(y0)
    tableau = method_of(method, options)
    controller = controller_of(tableau, rtol, atol, options, shapes=shapes, field=func, y0=y0, like=flat)
    field = _flat_field(func, shapes)
    if len(t) == 1 and event_fn is None:
        return _unflatten(flat[None], shapes)
    event_t = None
    if event_fn is not None:
        if len(t) != 2:
            raise ValueError(f"an event needs len(t) == 2, start and direction, not {len(t)}")
        event = event_fn if shapes is None else _on_flat(event_fn, shapes)
        event_t, entry = events.find(field, flat, t.detach(), event, tableau=tableau, controller=controller)
        if isinstance(event_fn, events.WatchedEvent):
            event_fn.entry = entry
        if bool(event_t == t[0]):
            return event_t, _unflatten(torch.stack([flat, flat]), shapes)
        t = torch.cat([t[:1], event_t[None]])
    solution = solve(
        field,
        flat,
        t,
        solver=tableau,
        controller=controller,
        gradient=gradient,
        parameters=parameters,
        callbacks=callbacks_of(func, shapes),
    )
    states = _unflatten(solution.ys, shapes)
    return states if event_t is None else (event_t, states)


def _unflatten(ys: Tensor, shapes: Shapes | None) -> State:
    return ys if shapes is None else split(ys, shapes)


def odeint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Options = None,
    event_fn: EventFunction | None = None,
) -> Any:
    """Integrate dy/dt = func(t, y), y(t[0]) = y0; differentiable by backprop through the accepted steps.

    Args:
        func: (t, y) -> dy/dt, t a 0-dim tensor. May have callback_step, callback_accept_step, callback_reject_step.
        y0: a tensor of any shape, or a tuple of tensors.
        t: [T], strictly increasing or decreasing.
        rtol, atol: tolerances; a number, a tensor, or for a tuple y0 one for each tensor.
        method: "dopri5" (default), "dopri8", "tsit5", "bosh3", "fehlberg2", "adaptive_heun", "euler", "midpoint",
            "heun2", "heun3", "rk4" (the 3/8 rule, as in torchdiffeq), "rk4_classic".
        options: torchdiffeq's: first_step, min_step, max_step, max_num_steps, safety, ifactor, dfactor, step_t, jump_t,
            norm; for fixed steps step_size, grid_constructor, interp, perturb.
        event_fn: (t, y) -> tensor; the solve ends where it (or one of its entries) crosses zero. t then gives the
            start and, by its second entry, the direction.

    Returns:
        [T, *y0.shape], or a tuple of such tensors; with event_fn (event time, 0-dim, without gradient; states at the
        start and at the event, [2, *y0.shape]).

    Raises:
        SolverError: the end was not reached.
        ValueError, TypeError: an argument is invalid.
    """
    return _integrate(func, y0, t, Backprop(), rtol, atol, method, options, event_fn, None)


def odeint_adjoint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Options = None,
    event_fn: EventFunction | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Options = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As `odeint`, with the gradient of the continuous adjoint (Chen et al., NeurIPS 2018), which is not exact.

    Args:
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the backward solve; the forward one's if not
            given. adjoint_options["norm"] may be "seminorm", or a function of (time, y, lambda, *parameters).
        adjoint_params: tensors whose gradients are wanted; found if not given.
        func, y0, t, rtol, atol, method, options, event_fn: as for `odeint`. Callbacks named ..._adjoint are called with
            the backward steps, with (y, lambda) as one tensor [2, *y.shape].
    """
    options = dict(options or {})
    if adjoint_method not in (None, method) and options and adjoint_options is None:
        raise ValueError("adjoint_options must be given where adjoint_method differs and options are given")
    backward = dict(options if adjoint_options is None else adjoint_options)
    norm = backward.pop("norm", None) if adjoint_options is not None else None
    backward.pop("norm", None)
    tableau = method_of(adjoint_method or method, backward)
    shapes = None if isinstance(y0, Tensor) else [x.shape for x in y0]
    if shapes is not None and callable(norm):
        norm = _norm_over_tuples(norm, shapes)
    backward["norm"] = options.get("norm")
    controller = controller_of(
        tableau,
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        backward,
        shapes=shapes,
        field=func,
        y0=y0,
        like=y0 if shapes is None else _joined(x.detach() for x in y0),
    )
    gradient = Adjoint(
        seminorm=norm == "seminorm",
        solver=tableau,
        controller=controller,
        norm=norm if callable(norm) else None,
        callbacks=callbacks_of(func, shapes, suffix="_adjoint"),
    )
    return _integrate(func, y0, t, gradient, rtol, atol, method, options, event_fn, adjoint_params)


def _norm_over_tuples(norm: Callable[..., Tensor], shapes: Shapes) -> Callable[[tuple[Tensor, ...]], Tensor]:
    def of_parts(parts: tuple[Tensor, ...]) -> Tensor:
        time, y, adjoint, *parameters = parts
        return norm((time, *split(y, shapes), *split(adjoint, shapes), *parameters))

    return of_parts


def odeint_onecheckpoint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Options = None,
    event_fn: EventFunction | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As `odeint`, keeping y0 alone and solving again with the graph in backward. Exact.

    Args:
        adjoint_params: tensors whose gradients are wanted; found if not given.
        func, y0, t, rtol, atol, method, options, event_fn: as for `odeint`.
    """
    return _integrate(func, y0, t, OneCheckpoint(), rtol, atol, method, options, event_fn, adjoint_params)


def odeint_checkpoint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Options = None,
    event_fn: EventFunction | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As `odeint`, with the adaptive checkpoint adjoint (Zhuang et al., ICML 2020). Exact.

    Args:
        adjoint_params: tensors whose gradients are wanted; found if not given.
        func, y0, t, rtol, atol, method, options, event_fn: as for `odeint`.
    """
    return _integrate(func, y0, t, ACA(), rtol, atol, method, options, event_fn, adjoint_params)


def odeint_symplectic_adjoint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Options = None,
    event_fn: EventFunction | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
    keep: str | Keep = "stages",
) -> Any:
    """As `odeint`, with the symplectic adjoint (Matsubara et al., NeurIPS 2021). Exact, with the least memory.

    Args:
        adjoint_params: tensors whose gradients are wanted; found if not given.
        keep: what of the forward solve is kept, as for `symadj_core.gradients.Symplectic`.
        func, y0, t, rtol, atol, method, options, event_fn: as for `odeint`.
    """
    gradient = Symplectic(keep=keep)
    return _integrate(func, y0, t, gradient, rtol, atol, method, options, event_fn, adjoint_params)


def odeint_event(
    func: Callable[..., Any],
    y0: State,
    t0: Tensor,
    *,
    event_fn: EventFunction,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **options: Any,
) -> tuple[Tensor, State]:
    """Integrate until event_fn crosses zero; event time and state are differentiable (Chen et al., ICLR 2021).

    Args:
        func, y0, event_fn: as for `odeint`.
        t0: 0-dim, start.
        reverse_time: integrate towards smaller times.
        odeint_interface: any of the five functions.
        options: further arguments of that function.

    Returns:
        event time (0-dim); states at the start and at the event, [2, *y0.shape] or a tuple of such tensors.
    """
    towards = t0.detach() + (-1.0 if reverse_time else 1.0)
    t = torch.stack([t0.reshape(()), towards.reshape(()).to(t0)])
    watched = events.WatchedEvent(event_fn)
    event_t, states = odeint_interface(func, y0, t, event_fn=watched, **options)
    if watched.entry < 0:
        raise TypeError(
            f"odeint_interface must call one of the functions of symadj_core, which {odeint_interface} didn't"
        )
    shapes = None if isinstance(y0, Tensor) else [x.shape for x in y0]
    flat = states[-1] if shapes is None else _joined(s[-1] for s in states)
    if shapes is not None:
        watched.function = _on_flat(event_fn, shapes)
    event_t, end = events.reroute(_flat_field(func, shapes), watched, t.detach(), event_t, flat)
    if shapes is None:
        return event_t, torch.cat([states[:-1], end[None]])
    ends = split(end, shapes)
    return event_t, tuple(torch.cat([s[:-1], e[None]]) for s, e in zip(states, ends, strict=True))
