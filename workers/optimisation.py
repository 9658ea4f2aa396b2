"""Optimiser and learning rate of a job spec."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from service.spec import AdamOptimizer, AdamWOptimizer, CosineSchedule, Optimizer, SgdOptimizer, Stop, StopAfterSteps

__all__ = ["build_optimizer", "learning_rate"]


def build_optimizer(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser; its rate is set before every step, from ``learning_rate``."""
    rate = optimizer.learning_rate
    match optimizer:
        case AdamOptimizer():
            return torch.optim.Adam(parameters, rate, optimizer.betas, fused=True)
        case AdamWOptimizer():
            return torch.optim.AdamW(parameters, rate, optimizer.betas, weight_decay=optimizer.weight_decay, fused=True)
        case SgdOptimizer():
            return torch.optim.SGD(parameters, rate, optimizer.momentum, fused=True)


def learning_rate(optimizer: Optimizer, stop: Stop, step: int) -> float:
    """Return the rate of ``step``, counted from 1: a pure function, so that a resumed run continues it.

    It rises linearly to ``optimizer.learning_rate`` over the warm-up, and stays there or decays as half a cosine
    from there to ``final_fraction`` of it, which it would reach one step after the last (a last step at rate 0, say,
    would be for nothing); so does torch's CosineAnnealingLR.
    """
    schedule, peak = optimizer.schedule, optimizer.learning_rate
    if step <= schedule.warmup_steps:
        return peak * step / (schedule.warmup_steps + 1)
    if not isinstance(schedule, CosineSchedule):
        return peak
    assert isinstance(stop, StopAfterSteps)  # the spec's own check
    decay_steps = stop.max_steps - schedule.warmup_steps
    progress = (step - 1 - schedule.warmup_steps) / decay_steps
    floor = schedule.final_fraction
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
