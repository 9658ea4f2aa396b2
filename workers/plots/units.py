"""The units that pictures of rows have on their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from symadj.workers.plane_density import PlaneDensity
from symadj_core.transforms import FittedTransform, invert

if TYPE_CHECKING:
    from matplotlib.axis import Axis

__all__ = ["TRANSFORMED", "Units", "original"]

Rows = NDArray[np.float64]

_CLOSEST_TICKS = 0.3  # of an axis
_FARTHEST = 700.0  # of which sinh is finite


@dataclass(frozen=True, eq=False)
class Units:
    """How rows of the flow's space are placed on axes.

    Attributes:
        name: of the units, for people.
        transforms: that are undone before rows are drawn.
        scales: of each column whose axis is spaced by ``arcsinh(value / scale)``, that scale; None where it is linear.
    """

    name: str
    transforms: tuple[FittedTransform, ...] = ()
    scales: tuple[float | None, ...] = ()

    def place(self, rows: Rows) -> Rows:
        """Return the coordinates [..., dim] of ``rows`` on the axes."""
        with np.errstate(over="ignore"):  # far from all data, and out of view
            return self._on_axes(invert(self.transforms, rows.reshape(-1, rows.shape[-1]))).reshape(rows.shape)

    def plane(self, density: PlaneDensity) -> tuple[Rows, Rows, Rows]:
        """Return the coordinates of the cells' edges, [n + 1] and [m + 1], and the density [n, m] in these units."""
        values = density.density
        edges = np.stack([_edges(density.x), _edges(density.y)], 1)
        if self.transforms:
            points = np.stack(np.meshgrid(density.x, density.y, indexing="ij"), -1).reshape(-1, 2)
            with np.errstate(all="ignore"):  # where the inverse has reached its end, the density is 0
                values = values * np.exp(self._log_abs_det(self._unrounded(points))).reshape(values.shape)
                edges = self._on_axes(self._unrounded(edges))
            values = np.nan_to_num(values, posinf=0.0)
        return edges[:, 0], edges[:, 1], values

    @property
    def words(self) -> str:
        """What a picture says of its axes."""
        spaced = any(scale is not None for scale in self.scales)
        return f"axes in {self.name}" + (", spaced by arcsinh where the spec has that transform" if spaced else "")

    def mark(self, axis: Axis, column: int, low: float, high: float) -> None:
        """Write values, not coordinates, beside an axis that shows ``low`` to ``high`` of a column."""
        scale = self.scales[column] if self.scales else None
        if scale is None:
            return
        ends = np.sinh(np.clip([low, high], -_FARTHEST, _FARTHEST)) * scale
        ticks = {float(np.arcsinh(value / scale)): value for value in _round_values(*ends)}
        kept: list[float] = []
        for place in ticks:
            if all(abs(place - other) >= _CLOSEST_TICKS * (high - low) for other in kept):
                kept.append(place)
        axis.set_ticks(kept, [f"{ticks[place]:g}" for place in kept])

    def _on_axes(self, raw: Rows) -> Rows:
        placed = raw.copy()
        for column, scale in enumerate(self.scales):
            if scale is not None:
                placed[:, column] = np.arcsinh(raw[:, column] / scale)
        return placed

    def _unrounded(self, rows: Rows) -> Rows:
        for transform in reversed(self.transforms):
            rows = transform.unrounded(rows)
        return rows

    def _log_abs_det(self, raw: Rows) -> Rows:
        log_abs_det = np.zeros(len(raw))
        for transform in self.transforms:
            raw, change = transform(raw)
            log_abs_det = log_abs_det + change
        return log_abs_det


TRANSFORMED = Units("transformed units, as the flow sees the data")


def original(transforms: Sequence[FittedTransform], dim: int) -> Units:
    """Return the units of the data. A column that is first compressed by arcsinh keeps that spacing on its axis."""
    scales = tuple(_scale(transforms, column) for column in range(dim))
    return Units("the units of the data", tuple(transforms), scales)


def _scale(transforms: Sequence[FittedTransform], column: int) -> float | None:
    for given in (transform.parameters() for transform in transforms):
        if column in given.get("columns", [column]):
            return given["scale"] if given["kind"] == "arcsinh" else None
    return None


def _round_values(low: float, high: float) -> list[float]:
    """Return values from ``low`` to ``high`` to write beside an axis, the roundest first."""
    from matplotlib.ticker import MaxNLocator

    largest = int(np.ceil(np.log10(max(abs(low), abs(high)))))
    powers = [10.0**power for power in range(largest, largest - 8, -1)]
    values = [0.0, *(sign * first * power for first in (1, 5, 2) for power in powers for sign in (1, -1))]
    return [value for value in (*values, *MaxNLocator(3).tick_values(low, high)) if low <= value <= high]


def _edges(middles: Rows) -> Rows:
    """Return the edges of cells of one size from their middles."""
    half = (middles[1] - middles[0]) / 2
    return np.append(middles - half, middles[-1] + half)
