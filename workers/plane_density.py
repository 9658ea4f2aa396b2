"""A density on a grid over the plane, as it is measured and drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PlaneDensity"]

Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PlaneDensity:
    """A density on the midpoints of a grid of equal cells.

    Attributes:
        x, y: [n] float64, coordinates of the midpoints.
        density: [n, n] float64, at (x[i], y[j]).
    """

    x: Rows
    y: Rows
    density: Rows

    @property
    def integral(self) -> float:
        """The sum over the cells; 1 but for what lies outside of the grid, and what is finer than it."""
        return float(self.density.sum()) * self._cell

    @property
    def integral_spread(self) -> float:
        """How far the sums over every other point each way lie from the integral.

        Where the grid resolves the density, they agree; where it does not, the integral means nothing.
        """
        halves = [float(self.density[i::2, j::2].sum()) * 4 * self._cell for i in (0, 1) for j in (0, 1)]
        return max(abs(half - self.integral) for half in halves)

    @property
    def _cell(self) -> float:
        return float((self.x[1] - self.x[0]) * (self.y[1] - self.y[0]))
