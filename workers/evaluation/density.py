"""The density of a two-dimensional flow over the plane, and its integral."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from symadj.service.contract.spec import JobSpec
from symadj.workers.delivery.sender import Outbox
from symadj.workers.distributed.ranks import Ranks
from symadj.workers.evaluation.samples import draw_samples
from symadj.workers.model.likelihood import DeviceRows, HeldOut, piece_rows
from symadj_core.flows import Flow

__all__ = ["PlaneDensity", "density_over_plane"]

Rows = NDArray[np.float64]

_POINTS = 240  # along each axis
_SAMPLES = 1000
_MARGIN = 0.35  # of the span of the rows, on each side


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


def density_over_plane(spec: JobSpec, flow: Flow, rows: Rows, ranks: Ranks, outbox: Outbox) -> PlaneDensity:
    """Evaluate the density of ``flow`` on a grid that ``rows`` and its samples lie well within, shared among the ranks.

    Args:
        spec: of the job.
        flow: of dimension 2, with the exact trace and tight tolerances.
        rows: [n, 2], of the data.
        ranks: share the work.
        outbox: whose cancel ends it between two pieces.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """

    def extent() -> tuple[Rows, Rows]:
        both = np.concatenate(
            [rows, draw_samples(flow, _SAMPLES, spec.seed, spec.data.batch_size, outbox.raise_if_stopped)]
        )
        low, high = both.min(0), both.max(0)
        return low - _MARGIN * (high - low), high + _MARGIN * (high - low)

    # One rank's, since samples may differ in their last digits from machine to machine.
    low, high = ranks.gather(ranks.together(extent, phase="evaluation"))[0]
    places = (np.arange(_POINTS) + 0.5) / _POINTS
    x, y = (low[axis] + places * (high[axis] - low[axis]) for axis in (0, 1))
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)

    def own_share() -> Rows:
        points = torch.from_numpy(grid[ranks.rank :: ranks.size]).to(ranks.device, next(flow.parameters()).dtype)
        own = DeviceRows(points, torch.arange(len(points), device=ranks.device), None)
        piece = piece_rows(flow, spec.data.batch_size // ranks.size)
        nll, _ = HeldOut(own, piece, spec.seed).nll(flow, outbox.raise_if_stopped)
        return nll.neg().exp().cpu().numpy()

    density = np.empty(len(grid))
    for rank, share in enumerate(ranks.gather(ranks.together(own_share, phase="evaluation"))):
        density[rank :: ranks.size] = share
    return PlaneDensity(x, y, density.reshape(_POINTS, _POINTS))
