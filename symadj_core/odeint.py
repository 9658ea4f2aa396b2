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
from symadj_core.odeint_options import Tolerance, callbacks_of, controller_of, method_of
from symadj_core.solve import requested_times, solve
from symadj_core.solvers import events
from symadj_core.state_form import State, StateForm

Options: TypeAlias = dict[str, Any] | None
EventFunction = Callable[[Tensor, State], Any]


class _JoinedField(nn.Module):
    """A field over a state of several tensors as one over the joined tensor. A module, so that parameters are found.

    Args:
        owner: the module that the field is, or whose method it is.
        field: (t, state) -> rates of the state's form.
        form: of the state.
    """

    def __init__(self, owner: nn.Module, field: Callable[..., Any], form: StateForm) -> None:
        super().__init__()
        self.joined_owner = owner
        self.call = field
        self.form = form

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.form.joined(self.call(t, self.form.split(y)))


def _on_joined(function: Callable[[Tensor, State], Any], form: StateForm) -> Callable[[Tensor, Tensor], Any]:
    return function if form.is_tensor else lambda t, y: function(t, form.split(y))


def _joined_field(field: Callable[..., Any], form: StateForm) -> Callable[[Tensor, Tensor], Tensor]:
    if form.is_tensor:
        return field
    owner = getattr(field, "__self__", field)
    if isinstance(owner, nn.Module):
        return _JoinedField(owner, field, form)
    return lambda t, y: form.joined(field(t, form.split(y)))


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
    form, t = StateForm(y0), requested_times(t)
    flat = form.joined(y0)
    tableau = method_of(method, options)
    controller = controller_of(tableau, rtol, atol, options, form=form, field=func, y0=y0, like=flat)
    field = _joined_field(func, form)
    if len(t) == 1 and event_fn is None:
        return form.split(flat[None])
    event_t, times = None, t
    if event_fn is not None:
        if len(t) != 2:
            raise ValueError(f"an event needs len(t) == 2, start and direction, not {len(t)}")
        event = events.WatchedEvent(_on_joined(event_fn, form))
        event_t = events.find(field, flat, t.detach(), event, tableau=tableau, controller=controller)
        if isinstance(event_fn, events.WatchedEvent):
            event_fn.entry = event.entry
        if bool(event_t == t[0]):
            return event_t, form.split(torch.stack([flat, flat]))
        times = torch.cat([t[:1], event_t[None]])
    solution = solve(
        field,
        flat,
        times,
        solver=tableau,
        controller=controller,
        gradient=gradient,
        parameters=parameters,
        callbacks=callbacks_of(func, form, tableau),
    )
    states = form.split(solution.ys)
    if event_t is None:
        return states
    if not isinstance(event_fn, events.WatchedEvent):
        # The states stay at a fixed time, as torchdiffeq's do: it is `odeint_event` that moves them with it.
        event_t, _moving = events.reroute(field, event, t.detach(), event_t, solution.ys[-1])
    return event_t, states


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
        y0: a tensor of any shape, or tuples, lists and dicts of tensors, which the field gets and returns likewise.
        t: [T], strictly increasing or decreasing; a tensor, or a list or an array of numbers.
        rtol, atol: tolerances; a number, a tensor, or for a tuple y0 one for each tensor.
        method: "dopri5" (default), "dopri8", "tsit5", "bosh3", "fehlberg2", "adaptive_heun", "euler", "midpoint",
            "heun2", "heun3", "rk4" (Kutta's 3/8 rule, as in torchdiffeq; `solve` calls it "rk4_38"), "rk4_classic"
            (the classical one, "rk4" of `solve`).
        options: torchdiffeq's: first_step, min_step, max_step, max_num_steps, safety, ifactor, dfactor, step_t, jump_t,
            norm; for fixed steps step_size, grid_constructor, interp, perturb.
        event_fn: (t, y) -> tensor; the solve ends where it (or one of its entries) crosses zero. t then gives the
            start and, by its second entry, the direction.

    Returns:
        [T, *y0.shape], or such tensors in the form of y0; with event_fn (event time, 0-dim; states at the start
        and at the event, [2, *y0.shape]): the states' gradient is that at a fixed time, as in torchdiffeq, where
        `odeint_event`'s moves with the event.

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
    form = StateForm(y0)
    if not form.is_tensor and callable(norm):
        norm = _norm_over_parts(norm, form)
    backward["norm"] = options.get("norm")
    controller = controller_of(
        tableau,
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
        backward,
        form=form,
        field=func,
        y0=y0,
        like=form.joined(y0).detach(),
    )
    gradient = Adjoint(
        seminorm=norm == "seminorm",
        solver=tableau,
        controller=controller,
        norm=norm if callable(norm) else None,
        callbacks=callbacks_of(func, form, tableau, suffix="_adjoint"),
    )
    return _integrate(func, y0, t, gradient, rtol, atol, method, options, event_fn, adjoint_params)


def _norm_over_parts(norm: Callable[..., Tensor], form: StateForm) -> Callable[[tuple[Tensor, ...]], Tensor]:
    def of_parts(parts: tuple[Tensor, ...]) -> Tensor:
        time, y, adjoint, *parameters = parts
        return norm((time, *form.parts(y), *form.parts(adjoint), *parameters))

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
        func: as for `odeint`. Of a module on which `compile()` was called, torch compiles single uses and their
            vector-Jacobian products, whatever derivatives it takes within.
        y0, t, rtol, atol, method, options, event_fn: as for `odeint`.
    """
    gradient = Symplectic(keep=keep)
    return _integrate(func, y0, t, gradient, rtol, atol, method, options, event_fn, adjoint_params)


def odeint_event(
    func: Callable[..., Any],
    y0: State,
    t0: Tensor | float,
    *,
    event_fn: EventFunction,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **options: Any,
) -> tuple[Tensor, State]:
    """Integrate until event_fn crosses zero; event time and state are differentiable (Chen et al., ICLR 2021).

    Args:
        func, y0, event_fn: as for `odeint`.
        t0: start, 0-dim or a number.
        reverse_time: integrate towards smaller times.
        odeint_interface: any of the five functions.
        options: further arguments of that function.

    Returns:
        event time (0-dim); states at the start and at the event, [2, *y0.shape] or such tensors in the form of y0.
    """
    start_time = t0 if isinstance(t0, Tensor) else torch.tensor(t0, dtype=torch.float64)
    if start_time.numel() != 1:
        raise ValueError(f"t0 must be one time, not a tensor of shape {list(start_time.shape)}")
    start_time = start_time.reshape(())
    t = torch.stack([start_time, start_time.detach() + (-1.0 if reverse_time else 1.0)])
    watched = events.WatchedEvent(event_fn)
    event_t, states = odeint_interface(func, y0, t, event_fn=watched, **options)
    if watched.entry < 0:
        raise TypeError(
            f"odeint_interface must call one of the functions of symadj_core, which {odeint_interface} didn't"
        )
    form = StateForm(y0)
    watched.function = _on_joined(event_fn, form)
    start, end = (form.joined(form.at(states, n)) for n in (0, -1))
    event_t, end = events.reroute(_joined_field(func, form), watched, t.detach(), event_t, end)
    return event_t, form.split(torch.stack([start, end]))
