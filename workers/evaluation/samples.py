"""Samples of a trained flow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from symadj_core.flows import Flow

__all__ = ["draw_samples"]


@torch.no_grad()
def draw_samples(
    flow: Flow,
    count: int,
    seed: int,
    piece: int,
    before_piece: Callable[[], None],
    context: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Draw ``count`` samples [count, dim] of the flow, ``piece`` at a time, with its solver.

    Args:
        flow: whose samples are drawn.
        count: at least 1.
        seed: of the base samples; they depend on ``piece`` too.
        piece: number of samples to draw at once.
        before_piece: called before every piece; ends the sampling by raising.
        context: [count, context dim], for a conditional flow; one sample is drawn for each.

    Raises:
        SolverError: a sample could not be carried to the data.
    """
    like = next(flow.parameters())
    contexts = None if context is None else torch.from_numpy(context).to(like)
    drawn = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for done in range(0, count, piece):
            before_piece()
            given = None if contexts is None else contexts[done : done + piece]
            drawn.append(flow.rsample((min(piece, count - done),), given))
    return torch.cat(drawn).double().cpu().numpy()
