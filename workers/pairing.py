"""Pairs of data rows, base samples and times for flow matching."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

__all__ = ["draw_pairs"]

# The exact assignment takes the cube of the rows: 0.1 s for so many, too long for more.
_LARGEST_PLAN = 1000
# Sets this stream of random numbers apart from those of the batches, whose second number counts epochs.
_STREAM = 0x70616972


def draw_pairs(x: Tensor, seed: int, step: int, rank: int, *, optimal_transport: bool) -> tuple[Tensor, Tensor]:
    """Draw a base sample and a time for each row: a pure function of the arguments.

    With ``optimal_transport`` the base samples are put in the order that makes the sum of squared distances to the rows
    least (minibatch OT, Tong et al., TMLR 2024), by the exact assignment within each thousand rows. Times are
    uniform on [0, 1), one in each of B equal strata.

    Args:
        x: [B, D].
        seed: of the job.
        step: of the training.
        rank: whose rows these are.
        optimal_transport: pair by the assignment, else as they come.

    Returns:
        z [B, D] standard normal, time [B]; of x's dtype, on its device.
    """
    rng = np.random.default_rng((seed, _STREAM, step, rank))
    rows = len(x)
    z = rng.standard_normal(tuple(x.shape))
    time = (rng.permutation(rows) + rng.random(rows)) / rows
    if optimal_transport:
        z = _assigned(x.detach().double().cpu().numpy(), z)
    # Rounding to a narrower dtype may end at 1.
    times = torch.from_numpy(time).to(x).clamp_(max=1 - torch.finfo(x.dtype).eps)
    return torch.from_numpy(z).to(x), times


def _assigned(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    parts = range(0, len(x), _LARGEST_PLAN)
    plans = ((x[a : a + _LARGEST_PLAN], z[a : a + _LARGEST_PLAN]) for a in parts)
    return np.concatenate([base[linear_sum_assignment(cdist(data, base, "sqeuclidean"))[1]] for data, base in plans])
