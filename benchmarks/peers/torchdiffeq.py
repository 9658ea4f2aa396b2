"""torchdiffeq (Chen 2018): the augmented state (y, log-determinant), by backprop and by the continuous adjoint."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from benchmarks.peers.torch_field import fields, finish, log_normal
from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result

VARIANTS = {"odeint": odeint, "odeint_adjoint": odeint_adjoint}


class _Augmented(nn.Module):
    """(f, -div f) with one probe, as FFJORD writes it."""

    def __init__(self, field: nn.Module, probe: Tensor) -> None:
        super().__init__()
        self.field = field
        self.probe = probe
        self.evaluations = 0

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        with torch.enable_grad():
            y = state[0].requires_grad_(True)
            dy = self.field(t, y)
            (row,) = torch.autograd.grad(dy, y, self.probe, create_graph=True)
            return dy, (row * self.probe).sum(-1)


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step."""
    solve = VARIANTS[variant]
    probes = torch.from_numpy(problem.probes)
    blocks = nn.ModuleList(_Augmented(field, probe) for field, probe in zip(fields(problem), probes, strict=True))
    data = torch.from_numpy(problem.data)
    times = torch.tensor([0.0, 1.0])

    def step() -> Result:
        blocks.zero_grad(set_to_none=True)
        for block in blocks:
            block.evaluations = 0
        y, log_det = data, torch.zeros(len(data))
        for block in blocks:
            ys, log_dets = solve(block, (y, log_det), times, rtol=RTOL, atol=ATOL, method="dopri5")
            y, log_det = ys[-1], log_dets[-1]
        loss = -(log_normal(y) + log_det).mean()
        forward = sum(block.evaluations for block in blocks)
        loss.backward()
        return finish(loss, blocks, forward, sum(block.evaluations for block in blocks) - forward)

    return step
