"""Samples of a trained flow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from symadj_core.flows import Flow

__all__ = ["draw_samples"]


@torch.no_grad()
def draw_samples(
    flow: Flow, count: int, seed: int, piece: int, context: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Draw ``count`` samples [count, dim] of the flow, ``piece`` at a time, with its solver.

    Args:
        context: [count, context dim], for a conditional flow; one sample is drawn for each.
    """
    like = next(flow.parameters())
    contexts = None if context is None else torch.from_numpy(context).to(like)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = [
            flow.rsample((min(piece, count - done),), None if contexts is None else contexts[done : done + piece])
            for done in range(0, count, piece)
        ]
    return torch.cat(drawn).double().cpu().numpy()
