"""Trajectories of a flow between base and data, and the solver's steps along them."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symadj.workers.model.likelihood import DeviceRows
from symadj_core.flows import Flow
from symadj_core.solvers.problem import Callbacks

__all__ = ["accepted_steps", "end_times", "sample_trajectories"]

Rows = NDArray[np.float64]


@torch.no_grad()
def end_times(flow: Flow) -> list[float]:
    """Return the flow's time at the end of each block."""
    return list(accumulate(float(block.duration()) for block in flow.stack()))


@torch.no_grad()
def sample_trajectories(
    flow: Flow, count: int, times: int, seed: int, context: Tensor | None
) -> tuple[Rows, list[float]]:
    """Return the paths of ``count`` base samples to the data, at equal distances of the flow's time.

    Args:
        flow: with training's solver.
        count: number of samples.
        times: points of each path, at least 2.
        seed: of the samples.
        context: [count, context dim], for a conditional flow.

    Returns:
        the paths [times, count, dim], base first, and the flow's time at their points.

    Raises:
        SolverError: a sample could not be carried to the data.
    """
    like = next(flow.parameters())
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, flow.dim, generator=generator, dtype=torch.float64).to(like)
    at = torch.linspace(end_times(flow)[-1], 0, times, dtype=torch.float64)
    return flow.transport(z, at, context).double().cpu().numpy(), at.tolist()


@torch.no_grad()
def accepted_steps(flow: Flow, rows: DeviceRows) -> tuple[Rows, Rows]:
    """Carry ``rows`` to the base; return the flow's time at the start of each accepted step [n], and its size [n].

    Raises:
        SolverError: a row could not be carried to the base.
    """
    starts: list[float] = []
    sizes: list[float] = []
    begin = 0.0

    def note(t: Tensor, _: Tensor, dt: Tensor) -> None:
        starts.append(begin + float(t))
        sizes.append(float(dt))

    def forget(*_: Tensor) -> None:
        starts.pop()
        sizes.pop()

    x = rows.x
    for block, end in zip(flow.stack(), end_times(flow), strict=True):
        # As in the likelihood, where the log-determinant is integrated too, but has no influence on the step size.
        times = torch.tensor([0.0, end - begin], dtype=torch.float64)
        x = block.trajectory(x, times, rows.context, Callbacks(step=note, reject=forget)).ys[-1]
        begin = end
    return np.asarray(starts), np.asarray(sizes)
