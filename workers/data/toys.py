"""Two-dimensional points drawn from densities that everyone knows from pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from symadj.service.contract.spec.data import ToyRows
from symadj.workers.data.table import Table

__all__ = ["draw_toy"]

Points = NDArray[np.floating]


def draw_toy(toy: ToyRows) -> Table:
    """Draw ``toy.rows`` points from ``toy.split_seed``; the same for the same two."""
    return Table(("x", "y"), _DRAW[toy.name](np.random.default_rng(toy.split_seed), toy.rows))


def _eight_gaussians(rng: Generator, rows: int) -> Points:
    """Standard deviation 0.25, centres evenly on the circle of radius 2."""
    angle = 2 * np.pi / 8 * rng.integers(8, size=rows)
    return 2.0 * _on_circle(angle) + 0.25 * rng.standard_normal((rows, 2))


def _pinwheel(rng: Generator, rows: int) -> Points:
    """Five bent arms: Gaussians around (1, 0), long along x, each turned by its arm's angle and exp(x) / 4 more."""
    arm = 2 * np.pi / 5 * rng.integers(5, size=rows)
    x, y = np.array([[1.0], [0.0]]) + np.array([[0.3], [0.1]]) * rng.standard_normal((2, rows))
    turn = arm + 0.25 * np.exp(x)
    cos, sin = np.cos(turn), np.sin(turn)
    return 2 * np.stack([cos * x - sin * y, sin * x + cos * y], 1)


def _checkerboard(rng: Generator, rows: int) -> Points:
    """Uniform on the eight black fields of a board of four by four fields of side 2, from -4 to 4."""
    column = rng.integers(4, size=rows)
    row = 2 * rng.integers(2, size=rows) + column % 2
    return 2 * (np.stack([column, row], 1) + rng.random((rows, 2))) - 4


def _moons(rng: Generator, rows: int) -> Points:
    """Two interleaved half circles of radius 1, with noise of standard deviation 0.1."""
    upper = rng.integers(2, size=rows).astype(bool)
    angle = np.pi * rng.random(rows)
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], 1) + 0.1 * rng.standard_normal((rows, 2))


def _rings(rng: Generator, rows: int) -> Points:
    """Four circles of radius 0.75, 1.5, 2.25 and 3, each as likely, with noise of standard deviation 0.08."""
    radius = 0.75 * (1 + rng.integers(4, size=rows))
    angle = 2 * np.pi * rng.random(rows)
    return radius[:, None] * _on_circle(angle) + 0.08 * rng.standard_normal((rows, 2))


def _swiss_roll(rng: Generator, rows: int) -> Points:
    """One spiral, radius 0.3 to 0.9 pi, of which the angle is uniform from 1.5 pi to 4.5 pi, with noise of 0.2."""
    angle = 1.5 * np.pi * (1 + 2 * rng.random(rows))
    return angle[:, None] * _on_circle(angle) / 5 + 0.2 * rng.standard_normal((rows, 2))


def _spirals(rng: Generator, rows: int) -> Points:
    """Two spirals of one and a half turns, one the other turned by half a turn, with noise of 0.1."""
    angle = 3 * np.pi * np.sqrt(rng.random(rows))
    sign = 2 * rng.integers(2, size=rows) - 1
    return (sign * angle)[:, None] * _on_circle(angle) / 3 + 0.1 * rng.standard_normal((rows, 2))


def _on_circle(angle: Points) -> Points:
    return np.stack([np.cos(angle), np.sin(angle)], 1)


_DRAW: dict[str, Callable[[Generator, int], Points]] = {
    "eight_gaussians": _eight_gaussians,
    "pinwheel": _pinwheel,
    "checkerboard": _checkerboard,
    "moons": _moons,
    "rings": _rings,
    "swiss_roll": _swiss_roll,
    "spirals": _spirals,
}
