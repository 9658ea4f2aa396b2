"""The field of the problem as symadj_core has it, for every implementation in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result
from symadj_core.flows import MLPField

__all__ = ["Augmented", "InOneTensor", "fields", "finish", "log_normal", "on_device", "step_in_one_tensor"]


def on_device(array: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    """Return an array of the problem on torch's default device."""
    return torch.from_numpy(array).to(torch.get_default_device())


def fields(problem: Problem) -> list[MLPField]:
    """Return the blocks' fields with the problem's weights."""
    made = []
    for block in problem.layers:
        field = MLPField(problem.size.dim, problem.size.hidden, time="concatsquash", activation="tanh")
        with torch.no_grad():
            for layer, values in zip(field.layers, block, strict=True):
                layer.linear.weight.copy_(torch.from_numpy(values["weight"]))
                layer.linear.bias.copy_(torch.from_numpy(values["bias"]))
                layer.gate.copy_(torch.from_numpy(values["gate"]))
                layer.gate_bias.copy_(torch.from_numpy(values["gate_bias"]))
                layer.shift.copy_(torch.from_numpy(values["shift"]))
        made.append(field)
    return made


def log_normal(z: Tensor) -> Tensor:
    """Return log N(z; 0, 1) [B]."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * float(np.log(2 * np.pi)))


def finish(loss: Tensor, module: nn.Module, forward: int | None, backward: int | None) -> Result:
    """Return the result of a step whose backward has run."""
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    return Result(float(loss.detach()), gradient.cpu().numpy(), forward, backward)


class Augmented(nn.Module):
    """(f, div f) by one probe, the augmented system as users of torchdiffeq write it."""

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


class InOneTensor(nn.Module):
    """(f, div f) by one probe over a state [B, D + 1] whose last column is the log-determinant."""

    def __init__(self, field: nn.Module, probe: Tensor) -> None:
        super().__init__()
        self.field = field
        self.register_buffer("probe", probe)
        self.evaluations = 0

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        self.evaluations += 1
        with torch.enable_grad():
            y = state[:, :-1]
            if not y.requires_grad:
                y.requires_grad_(True)
            dy = self.field(t, y)
            (row,) = torch.autograd.grad(dy, y, self.probe, create_graph=True)
            return torch.cat([dy, (row * self.probe).sum(-1, keepdim=True)], dim=1)


def step_in_one_tensor(
    problem: Problem, solve: Callable[..., Tensor], *, compiled: bool = False
) -> Callable[[], Result]:
    """Return a training step over the state in one tensor, for any function with the arguments of torchdiffeq's."""
    probes = on_device(problem.probes)
    blocks: Any = nn.ModuleList(InOneTensor(f, probe) for f, probe in zip(fields(problem), probes, strict=True))
    if compiled:
        for block in blocks:
            block.compile()
    data = on_device(problem.data)
    times = torch.tensor([0.0, 1.0])

    def step() -> Result:
        blocks.zero_grad(set_to_none=True)
        for block in blocks:
            block.evaluations = 0
        state = torch.cat([data, torch.zeros(len(data), 1)], dim=1)
        for block in blocks:
            state = solve(block, state, times, rtol=RTOL, atol=ATOL, method="dopri5")[-1]
        loss = -(log_normal(state[:, :-1]) + state[:, -1]).mean()
        forward = sum(block.evaluations for block in blocks)
        loss.backward()
        return finish(loss, blocks, forward, sum(block.evaluations for block in blocks) - forward)

    return step
