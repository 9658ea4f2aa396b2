"""The density of a two-dimensional flow over the plane, and its integral."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from symadj.workers.evaluation.samples import draw_samples
from symadj.workers.model.likelihood import DeviceRows, HeldOut
from symadj.workers.plane_density import PlaneDensity
from symadj.workers.rank_run import RankRun
from symadj_core.flows import Flow, piece_rows

__all__ = ["density_over_plane"]

Rows = NDArray[np.float64]

_POINTS = 240  # along each axis
_SAMPLES = 1000
_MARGIN = 0.35  # of the span of the rows, on each side


def density_over_plane(run: RankRun, flow: Flow, rows: Rows) -> PlaneDensity:
    """Evaluate the density of ``flow`` on a grid that ``rows`` and its samples lie well within, shared among the ranks.

    Args:
        run: on this rank; a request to stop ends it between two pieces.
        flow: of dimension 2, with the exact trace and tight tolerances.
        rows: [n, 2], of the data.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """
    spec, ranks, check = run.spec, run.ranks, run.outbox.raise_if_stopped

    def extent() -> tuple[Rows, Rows]:
        both = np.concatenate([rows, draw_samples(flow, _SAMPLES, spec.seed, spec.batch_size, check)])
        low, high = both.min(0), both.max(0)
        return low - _MARGIN * (high - low), high + _MARGIN * (high - low)

    # Rank 0's for all: the last digits of samples may differ from machine to machine.
    low, high = ranks.gather(ranks.together(extent, phase="evaluation"))[0]
    places = (np.arange(_POINTS) + 0.5) / _POINTS
    x, y = (low[axis] + places * (high[axis] - low[axis]) for axis in (0, 1))
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)

    def own_share() -> Rows:
        points = torch.from_numpy(grid[ranks.rank :: ranks.size]).to(ranks.device, next(flow.parameters()).dtype)
        own = DeviceRows(points, torch.arange(len(points), device=ranks.device), None)
        piece = piece_rows(flow, spec.batch_size // ranks.size)
        nll, _ = HeldOut(own, piece, spec.seed).nll(flow, check)
        return nll.neg().exp().cpu().numpy()

    density = np.empty(len(grid))
    for rank, share in enumerate(ranks.gather(ranks.together(own_share, phase="evaluation"))):
        density[rank :: ranks.size] = share
    return PlaneDensity(x, y, density.reshape(_POINTS, _POINTS))
