"""Flow matching: training the fields without a solve (Lipman et al., ICLR 2023; Liu et al., ICLR 2023).

The paths are straight, x_s = (1 - s) x + s z from data x to base z, and the fields are fitted to their velocity. Which
x goes with which z is the caller's choice: pairs by minibatch optimal transport (Tong et al., TMLR 2024) make paths
that cross less. With contexts, only pairs that are alike in it, or nearly, may be exchanged: each context must meet the
whole base.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symadj_core.flows.cnf import Flow


def flow_matching_loss(flow: Flow, x: Tensor, z: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
    """The squared error of the velocity of every sample, [B], mean over the components that move.

    The M blocks share s in [0, 1] evenly: block m goes from s = m / M to (m + 1) / M while its own time t goes from 0
    to its end time T, so that f is asked for dx/dt = (z - x) / (M T). The error is taken in units of ds, as
    |M T f - (z - x)|^2, whatever the number of blocks and their end times. Where blocks move a part of the state, M is
    for each component the number of those that move it, and it moves while they do.

    Args:
        flow: its fields take times of shape [B].
        x: [B, D], data.
        z: [B, D], samples of the base, to which the x must be carried.
        time: s, [B], in [0, 1).
        context: [B, C], for a conditional flow.

    Raises:
        ValueError: shapes that do not fit.
    """
    if x.dim() != 2 or z.shape != x.shape or time.shape != x.shape[:1]:
        raise ValueError(
            f"expected x and z [B, D] and time [B], got {list(x.shape)}, {list(z.shape)}, {list(time.shape)}"
        )
    blocks = flow.stack()
    s = time.to(x.dtype)
    place = s * len(blocks)
    number = place.long().clamp(0, len(blocks) - 1)
    displacement = z - x
    # For each block and component: 1 where the one moves the other, and how many blocks have moved it before.
    none, all_of_it = x.new_zeros(flow.dim), x.new_ones(flow.dim)
    moves = torch.stack([block.with_part(none, block.part(all_of_it)) for block in blocks])
    before, total = moves.cumsum(0) - moves, moves.sum(0)
    # Read from the device once, not once a block.
    counts = (number[:, None] == torch.arange(len(blocks), device=x.device)).sum(0).tolist()
    loss = x.new_zeros(len(x))
    for m, (block, rows) in enumerate(zip(blocks, torch.split(number.argsort(stable=True), counts), strict=True)):
        # A block without samples is evaluated too, on no rows, so that its parameters have gradients (of zero): DDP
        # waits for all of them.
        field = block.field_for(None if context is None else context[rows])
        passed = place[rows] - m
        progress = (before[m] + passed[:, None] * moves[m]) / total
        here = block.part(x[rows] + progress * displacement[rows])
        duration = block.duration()
        velocity = block.part(total) * duration * field(passed * duration, here)
        error = (velocity - block.part(displacement[rows])).square().mean(-1)
        loss = loss.index_add(0, rows, error)
    return loss
