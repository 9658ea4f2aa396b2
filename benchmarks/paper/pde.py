"""The paper's two physical systems, each on a periodic grid of n points, and a reference scheme of known order.

Both are u' = A dH/du, a constant matrix A times the variational derivative of an energy H. Korteweg-de Vries has a skew
A, which conserves H, Cahn-Hilliard a negative semidefinite one, which dissipates it; both A have columns that sum to 0,
which conserves the mass. Differences in space are of order 2, in the form of D. Furihata, J. Comput. Phys. 156 (1999)
181. Float64 throughout.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["PDE", "SYSTEMS", "CahnHilliard", "KortewegDeVries", "SimulationError", "simulate"]


class SimulationError(RuntimeError):
    """The reference scheme found no solution of its implicit equation: take shorter steps."""


@dataclass(frozen=True)
class PDE(ABC):
    """A system on a periodic grid.

    Attributes:
        points: n.
        length: of the period.
        interval: of time between two snapshots, such that something happens in it.
    """

    points: int
    length: float
    interval: float
    name: ClassVar[str]

    @property
    def spacing(self) -> float:
        """Distance of two neighbours of the grid."""
        return self.length / self.points

    @property
    def grid(self) -> Tensor:
        """The places x of the grid [n]."""
        return torch.arange(self.points, dtype=torch.float64) * self.spacing

    def ahead(self) -> Tensor:
        """The matrix [n, n] that takes u(x) to u(x + spacing)."""
        return torch.eye(self.points, dtype=torch.float64).roll(1, dims=1)

    def laplacian(self) -> Tensor:
        """The matrix [n, n] of u_xx."""
        ahead = self.ahead()
        return (ahead + ahead.T - 2 * torch.eye(self.points, dtype=torch.float64)) / self.spacing**2

    def mass(self, u: Tensor) -> Tensor:
        """The integral of u over the period, [..., n] to [...]."""
        return self.spacing * u.sum(-1)

    def steepness(self, u: Tensor) -> Tensor:
        """u_x^2 between neighbours, [..., n]."""
        return ((u.roll(-1, dims=-1) - u) / self.spacing).square()

    @property
    @abstractmethod
    def operator(self) -> Tensor:
        """A, [n, n]."""

    @abstractmethod
    def energy(self, u: Tensor) -> Tensor:
        """H, [..., n] to [...]."""

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor:
        """dH/du, [..., n] to [..., n]: the gradient of H by the values, divided by the spacing."""

    @abstractmethod
    def curvature(self, u: Tensor) -> Tensor:
        """The derivative of the slope, [..., n] to [..., n, n]."""

    @abstractmethod
    def initial(self, count: int, seed: int) -> Tensor:
        """Random initial conditions [count, n]."""


@dataclass(frozen=True)
class KortewegDeVries(PDE):
    """u_t = -6 u u_x - u_xxx; H is the integral of u_x^2 / 2 - u^3, and A the central difference."""

    length: float = 10.0
    interval: float = 0.15
    name: ClassVar[str] = "Korteweg-de Vries"

    @property
    def operator(self) -> Tensor:
        """The matrix of u_x, skew."""
        ahead = self.ahead()
        return (ahead - ahead.T) / (2 * self.spacing)

    def energy(self, u: Tensor) -> Tensor:
        """H [...]."""
        return self.spacing * (self.steepness(u) / 2 - u**3).sum(-1)

    def slope(self, u: Tensor) -> Tensor:
        """-u_xx - 3 u^2."""
        return -u @ self.laplacian() - 3 * u.square()

    def curvature(self, u: Tensor) -> Tensor:
        """Its derivative."""
        return -self.laplacian() - 6 * torch.diag_embed(u)

    def soliton(self, speed: float | Tensor, moment: float, start: float | Tensor) -> Tensor:
        """The wave that keeps its form, c/2 sech^2(sqrt(c)/2 (x - x0 - c t)): exact where the period is long.

        Args:
            speed: c > 0, a number or [count, 1].
            moment: t.
            start: x0, its place at t = 0, a number or [count, 1].
        """
        speed = torch.as_tensor(speed, dtype=torch.float64)
        away = (self.grid - start - speed * moment + self.length / 2) % self.length - self.length / 2
        return speed / 2 / torch.cosh(speed.sqrt() / 2 * away).square()

    def initial(self, count: int, seed: int) -> Tensor:
        """Two solitons each, of speeds within [1, 3], wherever they are."""
        generator = torch.Generator().manual_seed(seed)
        speeds = 1 + 2 * torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
        starts = self.length * torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
        return self.soliton(speeds[0], 0.0, starts[0]) + self.soliton(speeds[1], 0.0, starts[1])


@dataclass(frozen=True)
class CahnHilliard(PDE):
    """u_t = (u^3 - u - gamma u_xx)_xx; H is the integral of (u^2 - 1)^2 / 4 + gamma u_x^2 / 2, and A the Laplacian."""

    length: float = 1.0
    interval: float = 2e-3
    gamma: float = 1e-3
    name: ClassVar[str] = "Cahn-Hilliard"

    @property
    def operator(self) -> Tensor:
        """The matrix of u_xx, negative semidefinite."""
        return self.laplacian()

    def energy(self, u: Tensor) -> Tensor:
        """H [...]."""
        return self.spacing * ((u.square() - 1).square() / 4 + self.gamma * self.steepness(u) / 2).sum(-1)

    def slope(self, u: Tensor) -> Tensor:
        """u^3 - u - gamma u_xx."""
        return u**3 - u - self.gamma * u @ self.laplacian()

    def curvature(self, u: Tensor) -> Tensor:
        """Its derivative."""
        return torch.diag_embed(3 * u.square() - 1) - self.gamma * self.laplacian()

    def initial(self, count: int, seed: int) -> Tensor:
        """A mixture that is about to separate: a few long waves around a mean near 0."""
        generator = torch.Generator().manual_seed(seed)
        waves = torch.arange(1, 6, dtype=torch.float64)
        shape = (count, len(waves), 1)
        phases = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)
        heights = 0.15 * torch.randn(shape, generator=generator, dtype=torch.float64)
        means = 0.2 * (2 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 1)
        angles = 2 * math.pi * waves[:, None] * self.grid / self.length
        start: Tensor = means + (heights * torch.cos(angles + phases)).sum(1)
        return start


# By the number of points.
SYSTEMS: tuple[Callable[[int], PDE], ...] = (KortewegDeVries, CahnHilliard)

# Gauss's two nodes on [0, 1], each of weight 1/2: exact for the cubic slopes of these systems.
_NODES = (0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6)
_MOST_ITERATIONS = 20


def simulate(pde: PDE, start: Tensor, moments: int, substeps: int) -> Tensor:
    """Solve by the average vector field method: order 2 in time, H conserved or dissipated exactly, as A says.

        v = u + h A (integral over s from 0 to 1 of dH/du (u + s (v - u)))

    G. R. W. Quispel and D. I. McLaren, J. Phys. A 41 (2008) 045206; Newton's method finds v.

    Args:
        pde: the system.
        start: [B, n], float64.
        moments: K, snapshots after the start, `pde.interval` apart.
        substeps: steps between two of them.

    Returns:
        [K + 1, B, n].

    Raises:
        SimulationError: Newton's method does not converge.
    """
    u, snapshots = start, [start]
    for _ in range(moments):
        for _ in range(substeps):
            u = _step(pde, u, pde.interval / substeps)
        snapshots.append(u)
    return torch.stack(snapshots)


def _step(pde: PDE, u: Tensor, h: float) -> Tensor:
    operator, identity = pde.operator, torch.eye(pde.points, dtype=u.dtype)
    v, tolerance = u, 1e-13 * (1 + float(u.abs().max()))
    for _ in range(_MOST_ITERATIONS):
        near, far = (u + node * (v - u) for node in _NODES)
        mean = (pde.slope(near) + pde.slope(far)) / 2
        jacobian = (_NODES[0] * pde.curvature(near) + _NODES[1] * pde.curvature(far)) / 2
        residual = v - u - h * mean @ operator.T
        change: Tensor = torch.linalg.solve(identity - h * operator @ jacobian, residual)
        v = v - change
        if float(change.abs().max()) <= tolerance:
            return v
    raise SimulationError(
        f"{pde.name}: Newton's method did not converge in {_MOST_ITERATIONS} iterations with a time step of {h:g}: "
        "take more substeps"
    )
