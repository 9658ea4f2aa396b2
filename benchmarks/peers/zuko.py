"""zuko (Rozet and others): its CNF's integrator over the augmented state, with its own adjoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from zuko.utils import odeint

from benchmarks.peers.torch_field import Augmented, fields, finish, log_normal
from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result

VARIANTS = ("odeint",)


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step."""
    probes = torch.from_numpy(problem.probes)
    blocks = nn.ModuleList(Augmented(field, probe) for field, probe in zip(fields(problem), probes, strict=True))
    data = torch.from_numpy(problem.data)

    def carried(block: nn.Module, y: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        ends: tuple[Tensor, Tensor] = odeint(
            lambda t, *state: block(t, state),
            (y, log_det),
            0.0,
            1.0,
            phi=tuple(block.parameters()),
            atol=ATOL,
            rtol=RTOL,
        )
        return ends

    def step() -> Result:
        blocks.zero_grad(set_to_none=True)
        for block in blocks:
            block.evaluations = 0
        y, log_det = data, torch.zeros(len(data))
        for block in blocks:
            y, log_det = carried(block, y, log_det)
        loss = -(log_normal(y) + log_det).mean()
        forward = sum(block.evaluations for block in blocks)
        loss.backward()
        return finish(loss, blocks, forward, sum(block.evaluations for block in blocks) - forward)

    return step
