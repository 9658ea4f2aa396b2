"""Exponential moving average of a flow's weights."""

from __future__ import annotations

import copy

import torch

from symadj_core.flows import Flow

__all__ = ["WeightAverage"]


class WeightAverage:
    """A flow whose weights follow those of another one.

    After step n they are ``d a + (1 - d) w`` with ``d = min(decay, (1 + n) / (10 + n))``: short at first, so that the
    initial weights are soon forgotten. torch's own ``AveragedModel`` counts its updates in a buffer and
    puts a prefix before the weights' names, which the checkpoints would have to carry; here the step is the argument.

    Attributes:
        flow: with the averaged weights; a flow of its own.
    """

    def __init__(self, flow: Flow, decay: float) -> None:
        self.flow = copy.deepcopy(flow)
        self._decay = decay

    @torch.no_grad()
    def update(self, flow: Flow, step: int) -> None:
        """Include the weights of ``flow`` after ``step``, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.flow.parameters()), list(flow.parameters()), 1 - decay)
