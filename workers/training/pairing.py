"""Pairs of data rows, base samples and times for flow matching."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["sample_pairs"]

# The exact assignment takes the cube of the rows: on one core 0.9 ms for so many, as long as a small field takes, and
# 35 ms for 500.
_LARGEST_PLAN = 128
# Sets this stream of random numbers apart from those of the batches, whose second number counts epochs.
_STREAM = 0x70616972


def sample_pairs(
    x: Tensor, seed: int, step: int, rank: int, *, optimal_transport: bool, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw a base sample and a time for each row: a pure function of the arguments.

    With ``optimal_transport`` the base samples are put in the order that makes the sum of squared distances to the rows
    least (minibatch OT, Tong et al., TMLR 2024), by the exact assignment within parts of at most 128 rows. Rows of
    different contexts are not paired with each other's samples: each context must see samples of the whole base, not
    only those near its rows. Times are uniform on [0, 1), one in each of B equal strata.

    Args:
        x: [B, D].
        seed: of the job.
        step: of the training.
        rank: whose rows these are.
        optimal_transport: pair by the assignment; else in the order drawn.
        context: [B, C], or None.

    Returns:
        z [B, D] standard normal, time [B]; of x's dtype, on its device.
    """
    rng = np.random.default_rng((seed, _STREAM, step, rank))
    rows = len(x)
    z = rng.standard_normal(tuple(x.shape))
    time = (rng.permutation(rows) + rng.random(rows)) / rows
    if optimal_transport:
        groups = [np.arange(rows)] if context is None else _alike(context.detach().cpu().numpy())
        z = _assigned(x.detach().double().cpu().numpy(), z, groups)
    # Rounding to a narrower dtype may end at 1.
    times = torch.from_numpy(time).to(x).clamp_(max=1 - torch.finfo(x.dtype).eps)
    return torch.from_numpy(z).to(x), times


def _alike(context: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the rows of each distinct context."""
    _, kind, counts = np.unique(context, axis=0, return_inverse=True, return_counts=True)
    return np.split(np.argsort(kind.ravel(), kind="stable"), np.cumsum(counts)[:-1])


def _assigned(x: np.ndarray, z: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    # Half a second to import, which only runs with optimal transport need to spend.
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    paired = z.copy()
    for group in groups:
        for part in np.array_split(group, max(1, math.ceil(len(group) / _LARGEST_PLAN))):
            plan = linear_sum_assignment(cdist(x[part], z[part], "sqeuclidean"))[1]
            paired[part] = z[part[plan]]
    return paired
