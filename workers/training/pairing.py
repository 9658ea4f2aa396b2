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
    x: Tensor,
    seed: int,
    step: int,
    rank: int,
    *,
    optimal_transport: bool,
    context: Tensor | None = None,
    context_ratio: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw a base sample and a time for each row: a pure function of the arguments.

    With ``optimal_transport`` the base samples are put in the order that makes the sum of squared distances to the rows
    least (minibatch OT, Tong et al., TMLR 2024), by the exact assignment within parts of at most 128 rows. Rows of
    different contexts are not paired with each other's samples: each context must see samples of the whole base, not
    only those near its rows. With a ``context_ratio`` they may be, at the price of the contexts' weighted squared
    distance (Cheng and Schwing, ICCV 2025, C2OT; BayesFlow's ``condition_ratio``). Times are uniform on [0, 1), one in
    each of B equal strata.

    Args:
        x: [B, D].
        seed: of the job.
        step: of the training.
        rank: whose rows these are.
        optimal_transport: pair by the assignment; else in the order drawn.
        context: [B, C], or None.
        context_ratio: share of a part's other rows whose sample a row prefers to its own, context included, which sets
            the weight; None: only rows of the same context.

    Returns:
        z [B, D] standard normal, time [B]; of x's dtype, on its device.
    """
    rng = np.random.default_rng((seed, _STREAM, step, rank))
    rows = len(x)
    z = rng.standard_normal(tuple(x.shape))
    time = (rng.permutation(rows) + rng.random(rows)) / rows
    if optimal_transport:
        given = None if context is None else context.detach().double().cpu().numpy()
        z = _assigned(x.detach().double().cpu().numpy(), z, given, context_ratio)
    # Rounding to a narrower dtype may end at 1.
    times = torch.from_numpy(time).to(x).clamp_(max=1 - torch.finfo(x.dtype).eps)
    return torch.from_numpy(z).to(x), times


def _alike(context: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the rows of each distinct context."""
    _, kind, counts = np.unique(context, axis=0, return_inverse=True, return_counts=True)
    return np.split(np.argsort(kind.ravel(), kind="stable"), np.cumsum(counts)[:-1])


def _assigned(x: np.ndarray, z: np.ndarray, context: np.ndarray | None, ratio: float | None) -> np.ndarray:
    # Half a second to import, which only runs with optimal transport need to spend.
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    groups = [np.arange(len(x))] if context is None or ratio is not None else _alike(context)
    paired = z.copy()
    for group in groups:
        for part in np.array_split(group, max(1, math.ceil(len(group) / _LARGEST_PLAN))):
            cost = cdist(x[part], z[part], "sqeuclidean")
            if context is not None and ratio is not None:
                apart = cdist(context[part], context[part], "sqeuclidean")
                cost += _context_weight(cost, apart, ratio) * apart
            plan = linear_sum_assignment(cost)[1]
            paired[part] = z[part[plan]]
    return paired


def _context_weight(cost: np.ndarray, apart: np.ndarray, ratio: float) -> float:
    """Return the weight of the contexts' distance with which a row prefers that share of the others' samples.

    A row prefers a sample to its own if ``cost + weight * apart`` is less than the cost of its own. So every pair of a
    row and a sample has a largest weight up to which it is preferred, and the weight asked for is a quantile of those.
    Where the share of pairs with equal contexts is above it already, the others pay more than any can gain.

    Args:
        cost: [n, n], squared distances of rows and samples.
        apart: [n, n], those of the contexts of the rows that they belong to.
        ratio: from 0 to 1.
    """
    gain = np.diag(cost)[:, None] - cost
    alike = apart == 0
    preferred = int(ratio * (cost.size - len(cost))) - int((alike & (gain > 0)).sum())
    limits = np.sort(gain[~alike] / apart[~alike])[::-1]
    if not len(limits) or limits[0] <= 0:
        return 0.0
    if preferred < 1:
        return float(cost.sum() / apart[~alike].min())
    return max(0.0, float(limits[min(preferred, len(limits)) - 1]))
