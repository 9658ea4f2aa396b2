"""How far the gradient of a training is from the exact one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from symadj.service.contract.result import GradientError
from symadj.workers.data import PreparedData
from symadj.workers.model.likelihood import DeviceRows, on_device
from symadj.workers.rank_run import RankRun
from symadj_core.flows import Flow

__all__ = ["gradient_error"]


def gradient_error(run: RankRun, rows: int, flow: Flow, data: PreparedData) -> GradientError:
    """Compare the gradient of the mean NLL of validation rows with backpropagation in float64.

    Both are of the same weights, rows, probes, solver and tolerances.

    Args:
        run: on this rank; all ranks must call it, and each computes the same.
        rows: how many validation rows, from the first on.
        flow: with training's solver and gradient.
        data: prepared.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end, or its memory did not suffice.
    """
    part = data.validation.head(rows)

    def measure() -> float:
        exact = copy.deepcopy(flow).double().with_settings(gradient="backprop", full_precision=True)
        found, wanted = (_gradient(of, on_device(part, of, run.ranks.device), run.spec.seed) for of in (flow, exact))
        return float((found - wanted).norm() / wanted.norm())

    return GradientError(rows=len(part), relative=run.ranks.together(measure, phase="evaluation"))


def _gradient(flow: Flow, rows: DeviceRows, seed: int) -> Tensor:
    """Return the gradient of the mean NLL to all parameters, as one vector in float64."""
    loss = -flow(rows.x, seed=seed, sample_index=rows.index, context=rows.context).mean()
    gradients = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.double().flatten() for gradient in gradients])
