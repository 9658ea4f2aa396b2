"""Trajectories through a stack of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from symadj_core.flows.block import Block
from symadj_core.solvers.problem import Stats


def trajectories(blocks: Sequence[Block], x: Tensor, t: Tensor, context: Tensor | None) -> tuple[Tensor, list[Stats]]:
    """The states [T, B, D] at the flow's times t [T] that pass through x [B, D] at t[0], and the solves' counts.

    Raises:
        ValueError: t is not strictly monotonic, or leaves the flow's time.
    """
    times = t.detach().double().tolist()
    with torch.no_grad():
        edges = [0.0, *accumulate(float(block.duration()) for block in blocks)]
    steps = [b - a for a, b in pairwise(times)]
    if not steps or not (all(s > 0 for s in steps) or all(s < 0 for s in steps)):
        raise ValueError("t must be at least two times, strictly increasing or strictly decreasing")
    # float32 times of a sum of end times may miss it by rounding.
    slack = 1e-6 * edges[-1]
    if min(times) < -slack or max(times) > edges[-1] + slack:
        raise ValueError(f"t must lie within the flow's time, 0 to {edges[-1]:g}, not {min(times):g} to {max(times):g}")
    forward = times[-1] > times[0]
    spans = list(zip(blocks, edges, edges[1:], strict=False))
    states, stats = [x], []
    here, index = min(max(times[0], 0.0), edges[-1]), 1
    for number, (block, low, high) in enumerate(spans if forward else reversed(spans)):
        last = number + 1 == len(spans)
        end = high if forward else low
        local = [here]
        while index < len(times) and (last or (times[index] <= end if forward else times[index] >= end)):
            local.append(min(max(times[index], low), high))
            index += 1
        asked = len(local) - 1
        if index < len(times) and local[-1] != end:
            local.append(end)
        if (here >= end if forward else here <= end) or len(local) == 1:
            # t[0] lies beyond this block, or all times were answered.
            continue
        solution = block.trajectory(x, torch.tensor([s - low for s in local], dtype=torch.float64), context)
        states.extend(solution.ys[1 : 1 + asked])
        stats.append(solution.stats)
        x, here = solution.ys[-1], local[-1]
    return torch.stack(states), stats
