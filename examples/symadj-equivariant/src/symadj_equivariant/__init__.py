"""A vector field of interacting particles for symadj: an example of a field of one's own, in a package of its own.

Forces along the lines between pairs of particles, as in the equivariant flows of Köhler, Klein and Noé (ICML 2020,
arXiv 2006.02425). With particles x_i in R^d, q_ij = |x_i - x_j|^2 and the centre c of the n particles:

    f_i = 1/n sum over j of phi(q_ij, t) (x_i - x_j) + a(t) c
    phi(q, t) = sum over k of w_k(t) exp(-q / (2 s_k^2)),  w_k and a sums of cos(pi m t)

Rotating, reflecting or permuting the particles does the same to f, so from the standard normal base the flow gets a
density that none of these changes. The divergence is a sum over the same pairs, so that it costs no more than f:

    div f = 1/n sum over i != j of (d phi + 2 q_ij dphi/dq) + d a(t)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from symadj_core.flows import VectorField
from symadj_core.solvers.system import Rates

__all__ = ["EquivariantField"]


class EquivariantField(VectorField):
    """Forces between the particles of a row, which are its columns, `particle_dim` at a time.

    Args:
        dim: D = n d, columns of a row.
        context_dim: 0; a context is refused.
        particle_dim: d, coordinates of a particle.
        kernels: K, Gaussians of the distance.
        harmonics: M, cosines of the time.
        reach: s_K, width of the widest Gaussian; each is narrower than the next by the factor K^(-1 / K).

    Raises:
        ValueError: D is not a multiple of d, or there is a context.
    """

    name = "equivariant"

    def __init__(
        self,
        dim: int,
        *,
        particle_dim: int = 2,
        kernels: int = 8,
        harmonics: int = 3,
        reach: float = 4.0,
        context_dim: int = 0,
    ) -> None:
        super().__init__(dim, context_dim)
        if context_dim:
            raise ValueError(f"the field equivariant takes no context, and the rows have one of {context_dim} columns")
        if dim % particle_dim:
            raise ValueError(f"{dim} columns are not particles of {particle_dim} coordinates each (particle_dim)")
        self.particle_dim = particle_dim
        # 1 / (2 s_k^2), [K]
        self.rates: Tensor
        self.register_buffer("rates", 0.5 / (reach * kernels ** (torch.arange(1 - kernels, 1) / kernels)).square())
        self.weights = nn.Parameter(0.1 * torch.randn(harmonics, kernels))
        self.centring = nn.Parameter(torch.zeros(harmonics))

    # What the field costs, by which symadj decides where to take the exact divergence.

    @property
    def knows_trace(self) -> bool:  # type: ignore[override]
        """The exact divergence is a closed form."""
        return type(self).forward is EquivariantField.forward

    @property
    def has_cheap_trace(self) -> bool:  # type: ignore[override]
        """And costs no more than an estimate."""
        return self.knows_trace

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dy/dt [B, D] at the times t (0-dim or [B]) and states y [B, D]."""
        self.inputs(y, context)  # refuses a context
        return self._with_divergence(t, y)[0]

    def traced(self, like: Tensor, differentiable: Rates, *, context: Callable[[], Tensor] | None = None) -> Rates:
        """f and its exact divergence [B] in closed form; `differentiable`, by autograd, if that is not forward's."""
        hooked = self._forward_hooks or self._forward_pre_hooks
        return differentiable if hooked or not self.knows_trace else self._with_divergence

    def _with_divergence(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = y.unflatten(-1, (-1, self.particle_dim))  # [B, n, d]
        particles = x.shape[1]
        apart = x[:, :, None] - x[:, None]  # [B, n, n, d]
        squared = apart.square().sum(-1)
        weights, centring = self._at(t.to(y.dtype))
        terms = torch.exp(-squared[..., None] * self.rates) * weights[..., None, None, :]  # [B, n, n, K]
        force = terms.sum(-1)
        f = (force[..., None] * apart).sum(2) / particles + (centring * x.mean(1))[:, None]
        slope = -(terms * self.rates).sum(-1)
        pairs = (self.particle_dim * force + 2.0 * squared * slope).sum((1, 2))
        # A particle is no pair with itself, for which q = 0 and phi = sum of w_k.
        pairs = pairs - self.particle_dim * particles * weights.sum(-1)
        return f.flatten(1), pairs / particles + self.particle_dim * centring.squeeze(-1)

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The weights [K] or [B, K] and the centring [1] or [B, 1] at t, 0-dim or [B]."""
        waves = torch.cos(math.pi * t[..., None] * torch.arange(len(self.weights), device=t.device, dtype=t.dtype))
        return waves @ self.weights, waves @ self.centring[:, None]
