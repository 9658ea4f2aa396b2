"""The optimiser of a job spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from symadj.service.contract.spec.training import AdamOptimizer, AdamWOptimizer, Optimizer, SgdOptimizer

__all__ = ["build_optimizer"]

_Kind = TypeVar("_Kind", bound=torch.optim.Optimizer)


def build_optimizer(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser; its rate is set before every step, from ``schedules.learning_rate``."""
    rate = optimizer.learning_rate
    match optimizer:
        case AdamOptimizer():
            return _Adam(parameters, rate, optimizer.betas, fused=True)
        case AdamWOptimizer():
            return _AdamW(parameters, rate, optimizer.betas, weight_decay=optimizer.weight_decay, fused=True)
        case SgdOptimizer():
            return _Sgd(parameters, rate, optimizer.momentum, fused=True)


def _without_compiler(kind: type[_Kind]) -> type[_Kind]:
    """Return torch's optimiser, whose methods do not load torch's compiler.

    torch marks them as not to be compiled, by wrappers that import the compiler when they are called first: 66 MiB and
    1.6 s of each rank, although nothing here compiles an optimiser. Within are the methods themselves. Should a later
    torch wrap them otherwise, the compiler is loaded again, and the training is the same.
    """
    marked = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in marked}
    # The wrapper of this one turns gradients off, too.
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


_Adam = _without_compiler(torch.optim.Adam)
_AdamW = _without_compiler(torch.optim.AdamW)
_Sgd = _without_compiler(torch.optim.SGD)
