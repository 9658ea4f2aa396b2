"""Adaptive checkpoint adjoint (Zhuang et al., ICML 2020): keep every accepted state, rebuild one step's graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from symadj_core.gradients.base import Cotangents, InputGradients, Replay, ReplayMethod
from symadj_core.gradients.keep import Recorder, Steps
from symadj_core.gradients.pullback import Pullback
from symadj_core.gradients.regraph import add, output_pairs, retake, total_quadrature


@dataclass(frozen=True)
class ACA(ReplayMethod):
    """Exact. Checkpoints O(N), graph memory O(s L), s more uses of the field a step in backward."""

    name: ClassVar[str] = "aca"

    def recorder(self) -> Recorder:
        return Steps().recorder()

    def sweep(self, replay: Replay, cotangents: Cotangents, pullback: Pullback) -> InputGradients:
        state = cotangents.state(len(replay.times) - 1)
        rate = cotangents.quadrature(len(replay.times) - 1)
        t_grad: Tensor | None = None
        for record, kept in zip(reversed(replay.records), reversed(replay.kept), strict=True):
            tied = record.start_tie is not None or record.end_tie is not None or bool(record.outputs)
            with torch.enable_grad():
                y = kept[0].detach().requires_grad_()
                t = replay.t.detach().requires_grad_() if replay.t_wanted and tied else None
                step = retake(replay, record, y, replay.q0, t)
                outputs, incoming = output_pairs(replay, record, step, y, replay.q0, t, cotangents)
            inputs = [y] if t is None else [y, t]
            grads = pullback.through([step.y, step.q, *outputs], [state, rate, *incoming], inputs)
            pullback.end_step()
            if t is not None:
                t_grad = add(t_grad, grads[1])
            state = add(grads[0], cotangents.state(record.start_tie))
            for index in (record.start_tie, *(i for i, _ in record.outputs)):
                rate = add(rate, cotangents.quadrature(index))
        return InputGradients(state, total_quadrature(cotangents), t_grad)
