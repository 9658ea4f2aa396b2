"""The system being integrated: y' = f(t, y), and running integrals q' = g(t, y) that feed back into nothing.

State and quadratures are separate, as in SUNDIALS' CVODES: g is left out wherever a stage's g has no weight, the
error control may ignore q, and in the backward sweep the adjoint of q is constant.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, maybe_current_level
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual

from symadj_core.solvers.compiled import CompiledField
from symadj_core.solvers.moving import Moving, Time, value_of
from symadj_core.solvers.precision import Precision, real_dtype, time_spacing
from symadj_core.solvers.randomness import Draws, RandomState, capturing

_Result = TypeVar("_Result")

Field = Callable[[Tensor, Tensor], Tensor]
Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@runtime_checkable
class DirectPullback(Protocol):
    """Rates that know their own vector-Jacobian product, which spares autograd's graph.

    `pull` takes the time, the state and the cotangents of f and g (None is zero), returns the state's cotangent and
    adds the parameters' to their `.grad`.
    """

    def pull(self, t: Tensor, y: Tensor, state: Tensor | None, quadrature: Tensor | None) -> Tensor:
        """(df/dy)^T state + (dg/dy)^T quadrature."""


@dataclass(frozen=True)
class Quadrature:
    """Running integrals q' = g(t, y), q(t0) = initial.

    Attributes:
        rates: (t, y) -> (f(t, y), g(t, y)), both at once because they share their work. f must equal the field's.
        initial: q at t0, any shape; the dtype of the state's real part, on its device.
    """

    rates: Rates
    initial: Tensor


class Slope(NamedTuple):
    """dy/dt, dq/dt where it was asked for, and the generators' states before it if the field draws random numbers."""

    state: Tensor
    quadrature: Tensor | None
    random: RandomState | None = None


class System:
    """Evaluates the field (and the rates of the quadratures), counting the uses.

    Args:
        field: f.
        rates: (f, g), or None without quadratures.
        precision: in which both are used.

    Attributes:
        direct: rates that know their own vector-Jacobian product.
        compiled: the field and its vector-Jacobian product, where `compile` found them.
    """

    def __init__(self, field: Field, rates: Rates | None, precision: Precision) -> None:
        self.field = field
        self.rates = rates
        self.precision = precision
        # Most fields are given the solve's own state, and the time in its dtype: nothing is to be cast.
        self._casts = precision.fine_time or precision.state != precision.kept
        # What knows its own derivative was made for these alone.
        self.direct = rates if isinstance(rates, DirectPullback) and not self._casts else None
        self.compiled: CompiledField | None = None
        self.evaluations = 0
        self._watched_from: RandomState | None = None
        self._draws: bool | None = None
        self._first_in_capture = False
        self._takes_fine_time = False

    def compile(self) -> None:
        """Use the field compiled wherever no graph of it is wanted, if its owner asked for that and it can be."""
        if self.rates is None and not self._casts:
            self.compiled = CompiledField.of(self.field)
        # What is compiled has no derivatives of forward mode, of torch.func or of dual numbers.
        if self.compiled is not None and (maybe_current_level() is not None or forward_ad._current_level >= 0):
            self.compiled.rest()

    def watch_randomness(self, device: torch.device) -> None:
        """Record the state of the generators before every use, if the first use draws from them.

        Where there is no such state, since a CUDA graph is captured, a first use that draws is refused.
        """
        self._draws = None
        self._first_in_capture = capturing(device)
        self._watched_from = None if self._first_in_capture else RandomState.now(device)

    def check_randomness(self) -> None:
        """Check that the field draws random numbers at its first use if at any.

        Raises:
            RuntimeError: random numbers were drawn, but not by the first use: they can't be drawn again.
        """
        start = self._watched_from
        if start is not None and not self._draws and not start.same(RandomState.now(start.device)):
            raise RuntimeError(
                "random numbers were drawn during the solve, though not by the first use of the field, and can't be "
                "replayed in backward: draw at every use or never, or use the gradient 'backprop'"
            )
        self._watched_from = None

    def slope(self, t: Time | Tensor, y: Tensor, *, with_quadrature: bool, random: RandomState | None = None) -> Slope:
        """One use of the field at time t and state y; with `random`, drawing what was drawn from that state.

        Raises:
            RuntimeError: it draws random numbers at its first use while a CUDA graph is captured.
        """
        self.evaluations += 1
        if self._first_in_capture:
            self._first_in_capture = False
            with Draws() as draws:
                slope = self._evaluate(t, y, with_quadrature)
            if draws.found:
                raise RuntimeError(
                    "the field draws random numbers, and what is drawn in a CUDA graph can't be drawn again by "
                    "backward: leave it out of the graph, call eval() on it, or use the gradient 'backprop'"
                )
            return slope
        if random is not None:
            with random.replayed():
                return self._evaluate(t, y, with_quadrature)
        start = self._watched_from
        if start is None or self._draws is False:
            return self._evaluate(t, y, with_quadrature)
        before = RandomState.now(start.device)
        slope = self._evaluate(t, y, with_quadrature)
        if self._draws is None:
            self._draws = not before.same(RandomState.now(start.device))
            if self._draws and self.compiled is not None:
                # What is compiled draws other numbers, and backward could not draw them again.
                self.compiled.rest()
                before.restore()
                slope = self._evaluate(t, y, with_quadrature)
        return slope._replace(random=before) if self._draws else slope

    def time(self, t: Time, y: Tensor) -> Tensor:
        """The time as the field is given it: 0-dim, on y's device, made by a fill so that nothing is copied there."""
        return time_tensor(t, self.precision.time, y.device)

    def given(self, y: Tensor) -> Tensor:
        """The state as the field is given it."""
        return y.to(self.precision.state)

    def _evaluate(self, t: Time | Tensor, y: Tensor, with_quadrature: bool) -> Slope:
        moment = t if isinstance(t, Tensor) else self.time(t, y)
        if with_quadrature and self.rates is not None:
            state, rate = self._used(self.rates, moment, y)
            # As below: sums are made in the state's precision, even if the field computes in another.
            return Slope(_without_graph(as_slope(state, y)), _without_graph(rate.to(real_dtype(y))))
        if self.compiled is not None:
            slope = None if torch.is_grad_enabled() else self.compiled.slope(moment, y)
            return Slope(_without_graph(as_slope(self.compiled.plain(moment, y) if slope is None else slope, y)), None)
        return Slope(_without_graph(as_slope(self._used(self.field, moment, y), y)), None)

    def _used(self, function: Callable[[Tensor, Tensor], _Result], t: Tensor, y: Tensor) -> _Result:
        if not self._casts:
            return function(t, y)
        if not self.precision.fine_time or self._takes_fine_time:
            return function(t.to(self.precision.time), self.given(y))
        try:
            result = function(t, self.given(y))
        except (RuntimeError, TypeError):
            # Products of matrices do not mix precisions: does the field work with times in its own?
            coarse = replace(self.precision, fine_time=False)
            result = function(t.to(coarse.time), self.given(y))
            self.precision = coarse
            near = float(t)
            warnings.warn(
                f"the field takes its time only in {coarse.time}, in which times near {near:g} are "
                f"{time_spacing(coarse.time, near):.2g} apart: shift the origin of time, or use float64",
                RuntimeWarning,
                stacklevel=2,
            )
        self._takes_fine_time = True
        return result


def _without_graph(x: Tensor) -> Tensor:
    """What the field returned, as the caller's grad mode has it: a field that turns the graph on leaves it on.

    A field does so for its divergence; a solve without a graph would hold those of all stages of a step at once.
    """
    if torch.is_grad_enabled() or not x.requires_grad:
        return x
    # Detaching would also drop the derivatives of forward mode.
    forward_mode = maybe_current_level() is not None or unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
    return x if forward_mode else x.detach()


def as_slope(dy: Tensor, y: Tensor) -> Tensor:
    """What the field returned, in the state's dtype.

    Raises:
        TypeError, ValueError: it is not a slope of y.
        RuntimeError: it is batched by torch.func.vmap where y is not.
    """
    if not isinstance(dy, Tensor):
        raise TypeError(f"the field returned a {type(dy).__name__}, not a tensor of the state's shape {list(y.shape)}")
    if dy.shape != y.shape:
        raise ValueError(f"the field returned shape {list(dy.shape)} for a state of shape {list(y.shape)}")
    if is_batchedtensor(dy) and not is_batchedtensor(y):
        raise RuntimeError("torch.func.vmap over a solve is not possible, since all share its steps: batch the state")
    if dy.dtype == y.dtype:
        return dy
    if dy.is_complex() and not y.is_complex():
        raise TypeError(f"the field returned {dy.dtype} for a state of {y.dtype}: make y0 complex")
    return dy.to(y.dtype)


def time_tensor(t: Time, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The time as a 0-dim tensor, made by a fill so that nothing is copied from the host."""
    moment = torch.full((), value_of(t), dtype=dtype, device=device)
    return moment + t.shift.to(moment) if isinstance(t, Moving) else moment
