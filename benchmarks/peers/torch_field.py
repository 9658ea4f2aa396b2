"""The field of the problem as symadj_core has it, for every implementation in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.problem import Problem
from benchmarks.result import Result
from symadj_core.flows import MLPField

__all__ = ["Augmented", "fields", "finish", "log_normal", "on_device"]


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
