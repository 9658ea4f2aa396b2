"""torchdiffeq (Chen 2018): the augmented state (y, log-determinant), by backprop and by the continuous adjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchdiffeq import odeint, odeint_adjoint

from benchmarks.peers.torch_field import Augmented, fields, finish, log_normal, on_device, step_in_one_tensor
from benchmarks.problem import ATOL, FIXED_STEPS, RTOL, Problem
from benchmarks.result import Result

VARIANTS = {
    "odeint": odeint,
    "odeint_adjoint": odeint_adjoint,
    "odeint, fixed steps": odeint,
    "odeint_adjoint, fixed steps": odeint_adjoint,
    "odeint, in one tensor": odeint,
    "odeint_adjoint, in one tensor": odeint_adjoint,
}


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step."""
    solve = VARIANTS[variant]
    if "in one tensor" in variant:
        return step_in_one_tensor(problem, solve)
    probes = on_device(problem.probes)
    blocks = nn.ModuleList(Augmented(field, probe) for field, probe in zip(fields(problem), probes, strict=True))
    data = on_device(problem.data)
    times = torch.tensor([0.0, 1.0])
    how: dict[str, Any] = {"rtol": RTOL, "atol": ATOL, "method": "dopri5"}
    if "fixed" in variant:
        how = {"method": "rk4", "options": {"step_size": 1 / FIXED_STEPS}}

    def step() -> Result:
        blocks.zero_grad(set_to_none=True)
        for block in blocks:
            block.evaluations = 0
        y, log_det = data, data.new_zeros(len(data))
        for block in blocks:
            ys, log_dets = solve(block, (y, log_det), times, **how)
            y, log_det = ys[-1], log_dets[-1]
        loss = -(log_normal(y) + log_det).mean()
        forward = sum(block.evaluations for block in blocks)
        loss.backward()
        return finish(loss, blocks, forward, sum(block.evaluations for block in blocks) - forward)

    return step
