"""The system being integrated: y' = f(t, y), and running integrals q' = g(t, y) that feed back into nothing.

State and quadratures are separate, as in SUNDIALS' CVODES: g is left out wherever a stage's g has no weight, the
error control may ignore q, and in the backward sweep the adjoint of q is constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from symadj_core.solvers.moving import Moving, Time, value_of
from symadj_core.solvers.randomness import RandomState

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
    """Evaluates the field (and the rates of the quadratures), counting the uses."""

    def __init__(self, field: Field, rates: Rates | None) -> None:
        self.field = field
        self.rates = rates
        self.direct = rates if isinstance(rates, DirectPullback) else None
        self.evaluations = 0
        self._watched_from: RandomState | None = None
        self._draws: bool | None = None

    def watch_randomness(self, device: torch.device) -> None:
        """Record the state of the generators before every use, if the first use draws from them."""
        self._draws = None
        self._watched_from = RandomState.now(device)

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
        """One use of the field at time t and state y; with `random`, drawing what was drawn from that state."""
        self.evaluations += 1
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
        return slope._replace(random=before) if self._draws else slope

    def _evaluate(self, t: Time | Tensor, y: Tensor, with_quadrature: bool) -> Slope:
        moment = t if isinstance(t, Tensor) else time_tensor(t, y)
        if with_quadrature and self.rates is not None:
            state, rate = self.rates(moment, y)
            # As below: sums are made in the state's precision, even if the field computes in another.
            return Slope(_as_slope(state, y), rate.to(real_dtype(y)))
        return Slope(_as_slope(self.field(moment, y), y), None)


def _as_slope(dy: Tensor, y: Tensor) -> Tensor:
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


def real_dtype(y: Tensor) -> torch.dtype:
    """The dtype of times and weights beside y: y's own, or its real part's."""
    return torch.empty((), dtype=y.dtype).real.dtype if y.is_complex() else y.dtype


def time_tensor(t: Time, y: Tensor) -> Tensor:
    """The time as a 0-dim tensor on y's device, made by a fill so that nothing is copied from the host."""
    moment = torch.full((), value_of(t), dtype=real_dtype(y), device=y.device)
    return moment + t.shift.to(moment) if isinstance(t, Moving) else moment
