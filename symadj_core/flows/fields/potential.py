"""OT-Flow's vector field, the gradient of a potential (Onken, Fung, Li and Ruthotto, AAAI 2021, arXiv 2006.00104).

    Phi(s) = w . N(s) + 1/2 s^T A^T diag(g) A s + b . s,  s = (y, c, t),  f = -grad_y Phi

N is a residual network with s(x) = log(2 cosh x), whose derivative is tanh:

    u_0 = s(K_0 s + b_0),  u_i = u_{i-1} + h s(K_i u_{i-1} + b_i),  i = 1 .. depth - 1,  h = 1 / (depth - 1)

Gradient and Laplacian of Phi are written out (section 3 and appendix of the paper), so that f has a graph of first
order and an exact trace, at depth - 1 products of matrices a dimension of y. The paper has g = 1; with g learnt, a
potential that starts at zero can leave it.

The authors start from w = 1, where Phi is the sum of the network's outputs: the wider it is, the more the flow
contracts the data (with g = 1, standard normal ones to a tenth or two of their spread), which the first steps of a
training must undo. Here it starts from their mean, w = 1 / m, and g = 0, near the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symadj_core.flows.fields.base import VectorField
from symadj_core.solvers.system import Rates


class PotentialField(VectorField):
    """f = -grad_y Phi: a flow along it takes the shortest way, and Phi gives its transport cost.

    Args:
        dim: D, dimension of the state.
        width: m, of N's layers.
        depth: N's layers, at least 2.
        rank: r, rank of the quadratic term; at most D + C + 1 are used.
        zero_init: start with f = 0, so that the flow starts as the identity.
        context_dim: C; the context stands beside y.

    Raises:
        ValueError: a size that is too small.
    """

    name = "potential"

    def __init__(
        self,
        dim: int,
        width: int = 64,
        depth: int = 2,
        rank: int = 10,
        *,
        zero_init: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(dim, context_dim)
        if min(width, rank, depth - 1) < 1:
            raise ValueError(f"width and rank must be at least 1 and depth at least 2, not {width}, {rank} and {depth}")
        inputs = dim + context_dim + 1
        self.opening = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.weight = nn.Parameter(torch.zeros(width) if zero_init else torch.full((width,), 1.0 / width))
        self.factor = nn.Parameter(nn.init.xavier_uniform_(torch.empty(min(rank, inputs), inputs)))
        self.curvature = nn.Parameter(torch.zeros(min(rank, inputs)))
        self.slope = nn.Parameter(torch.zeros(inputs))

    @property
    def knows_trace(self) -> bool:  # type: ignore[override]
        """Unless an override or a hook changes what forward does."""
        return not any(self._changes(name) for name in _OWN) and not self._has_hooks()

    def _changes(self, name: str) -> bool:
        """Whether a method of this class is overridden."""
        return name in self.__dict__ or getattr(type(self), name) is not _OWN[name]

    def _has_hooks(self) -> bool:
        return any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dy/dt [B, D] at the times t (0-dim or [B]), states y [B, D] and contexts [B, C]."""
        return -self.gradient(t, y, context)[:, : self.dim]

    def potential(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Phi [B], up to a constant."""
        s = self._arguments(t, y, context)
        u = _log_cosh(self.opening(s))
        for layer in self.layers:
            u = u + _log_cosh(layer(u)) / len(self.layers)
        quadratic = 0.5 * F.linear(s, self.factor).square() @ self.curvature
        return u @ self.weight + quadratic + s @ self.slope

    def gradient(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """grad Phi [B, D + C + 1], with respect to y, the context and t, in this order."""
        s = self._arguments(t, y, context)
        return self._gradient(s, self._pass(s))

    def with_divergence(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f [B, D] and its exact divergence [B], the Laplacian of -Phi in y."""
        s = self._arguments(t, y, context)
        tape = self._pass(s)
        step = 1.0 / len(self.layers)
        inputs = self.opening.weight[:, : self.dim]
        first, *later = tape.slopes
        laplacian = (tape.adjoints[0] * (1.0 - first.square())) @ inputs.square().sum(1)
        # d u_i / d y, as [B, D, m].
        jacobian = first[:, None, :] * inputs.T
        for n, (layer, slope, adjoint) in enumerate(zip(self._linear(), later, tape.adjoints[1:], strict=True)):
            moved = F.linear(jacobian, layer.weight)
            bend = adjoint * (1.0 - slope.square())
            laplacian = laplacian + step * (bend * moved.square().sum(1)).sum(-1)
            if n + 1 < len(later):
                jacobian = jacobian + step * slope[:, None, :] * moved
        laplacian = laplacian + self.factor[:, : self.dim].square().sum(1) @ self.curvature
        return -self._gradient(s, tape)[:, : self.dim], -laplacian

    def hamilton_jacobi(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dPhi/dt - |grad_y Phi|^2 / 2, [B]: zero where Phi solves the Hamilton-Jacobi-Bellman equation.

        Raises:
            ValueError: an override or a hook changes what forward does: the field is not the gradient of Phi any more.
        """
        if self._changes("forward") or self._has_hooks():
            raise ValueError(
                f"the forward of {type(self).__name__} is not PotentialField's own, or has hooks: the field may not be "
                "the gradient of its potential, so write hamilton_jacobi for it, or leave the regulariser 'hjb' out"
            )
        gradient = self.gradient(t, y, context)
        return gradient[:, -1] - 0.5 * gradient[:, : self.dim].square().sum(-1)

    def traced(self, like: Tensor, differentiable: Rates, *, context: Callable[[], Tensor] | None = None) -> Rates:
        """`with_divergence` for one solve; `differentiable` itself where that is not the divergence of forward."""
        if not self.knows_trace:
            return differentiable
        return lambda t, y: self.with_divergence(t, y, None if context is None else context())

    def _arguments(self, t: Tensor, y: Tensor, context: Tensor | None) -> Tensor:
        return torch.cat([self.inputs(y, context), t.to(y.dtype).expand(y.shape[0])[:, None]], -1)

    def _linear(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def _pass(self, s: Tensor) -> _Tape:
        """Through the network and back, keeping what gradient and Laplacian need."""
        step = 1.0 / len(self.layers)
        z = self.opening(s)
        slopes, u = [z.tanh()], _log_cosh(z)
        for n, layer in enumerate(self.layers):
            z = layer(u)
            slopes.append(z.tanh())
            if n + 1 < len(self.layers):
                u = u + step * _log_cosh(z)
        adjoints = [self.weight.expand(s.shape[0], -1)]
        for layer, slope in zip(reversed(self._linear()), reversed(slopes[1:]), strict=True):
            adjoints.insert(0, adjoints[0] + step * (slope * adjoints[0]) @ layer.weight)
        return _Tape(slopes, adjoints)

    def _gradient(self, s: Tensor, tape: _Tape) -> Tensor:
        network = (tape.slopes[0] * tape.adjoints[0]) @ self.opening.weight
        return network + (F.linear(s, self.factor) * self.curvature) @ self.factor + self.slope


# What `with_divergence` writes out.
_OWN = {name: getattr(PotentialField, name) for name in ("forward", "gradient", "inputs")}


class _Tape(NamedTuple):
    """slopes[i]: tanh of layer i's argument; adjoints[i]: the derivative of w . N by u_i; both [B, m]."""

    slopes: list[Tensor]
    adjoints: list[Tensor]


def _log_cosh(x: Tensor) -> Tensor:
    """log(2 cosh x), the antiderivative of tanh, without overflow: neither here nor in the first two derivatives."""
    return x + F.softplus(-2.0 * x, threshold=40.0)
