"""A step as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["WARM_UP", "captured"]

# Steps before the capture, which torch asks for.
WARM_UP = 3


def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture a step, as torch's notes on CUDA graphs say.

    Args:
        step: works on tensors of one CUDA device that stay where they are; is called a few times before.

    Returns:
        What replays it, and returns the tensor that the captured step returned, which each replay overwrites.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
