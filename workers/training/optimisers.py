"""The optimiser of a job spec."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from symadj.service.contract.spec.training import AdamOptimizer, AdamWOptimizer, Optimizer, SgdOptimizer

__all__ = ["build_optimizer"]


def build_optimizer(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser; its rate is set before every step, from ``schedules.learning_rate``."""
    rate = optimizer.learning_rate
    match optimizer:
        case AdamOptimizer():
            return torch.optim.Adam(parameters, rate, optimizer.betas, fused=True)
        case AdamWOptimizer():
            return torch.optim.AdamW(parameters, rate, optimizer.betas, weight_decay=optimizer.weight_decay, fused=True)
        case SgdOptimizer():
            return torch.optim.SGD(parameters, rate, optimizer.momentum, fused=True)
