"""torchode (Lienen and Guennemann 2022): every sample with steps of its own, by backpropagation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchode
from torch import Tensor, nn

from benchmarks.peers.torch_field import fields, finish, log_normal
from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result
from symadj_core.flows import MLPField

VARIANTS = ("AutoDiffAdjoint",)


class _Augmented(nn.Module):
    """(f, div f) side by side in [B, D + 1]; the time is a vector [B], so the gates are applied to activations."""

    def __init__(self, field: MLPField, probe: Tensor) -> None:
        super().__init__()
        self.field = field
        self.probe = probe
        self.evaluations = 0

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        self.evaluations += 1
        moment = t[:, None]
        with torch.enable_grad():
            y = state[:, :-1]
            y = y if y.requires_grad else y.detach().requires_grad_()
            x = y
            for number, layer in enumerate(self.field.layers):
                gate = (layer.gate * moment + layer.gate_bias).sigmoid()
                x = layer.linear(x) * gate + layer.shift * moment
                if number < len(self.field.layers) - 1:
                    x = torch.tanh(x)
            (row,) = torch.autograd.grad(x, y, self.probe, create_graph=True)
            return torch.cat([x, (row * self.probe).sum(-1, keepdim=True)], dim=1)


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step."""
    probes = torch.from_numpy(problem.probes)
    blocks = nn.ModuleList(_Augmented(field, probe) for field, probe in zip(fields(problem), probes, strict=True))
    solvers = []
    for block in blocks:
        term = torchode.ODETerm(block)
        controller = torchode.IntegralController(atol=ATOL, rtol=RTOL, term=term)
        solvers.append(torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller))
    data = torch.from_numpy(problem.data)
    times = torch.tensor([0.0, 1.0]).expand(len(data), 2)

    def step() -> Result:
        blocks.zero_grad(set_to_none=True)
        for block in blocks:
            block.evaluations = 0
        state = torch.cat([data, torch.zeros(len(data), 1)], dim=1)
        for solver in solvers:
            state = solver.solve(torchode.InitialValueProblem(y0=state, t_eval=times)).ys[:, -1]
        loss = -(log_normal(state[:, :-1]) + state[:, -1]).mean()
        loss.backward()
        return finish(loss, blocks, sum(block.evaluations for block in blocks), 0)

    return step
