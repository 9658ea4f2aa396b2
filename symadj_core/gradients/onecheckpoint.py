"""Keep y0 alone; integrate again with the whole graph in backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from symadj_core.gradients.base import Cotangents, InputGradients, Replay, ReplayMethod
from symadj_core.gradients.keep import FirstStep, Recorder
from symadj_core.gradients.pullback import Pullback
from symadj_core.gradients.regraph import add, output_pairs, retake, total_quadrature
from symadj_core.solvers.system import Slope


@dataclass(frozen=True)
class OneCheckpoint(ReplayMethod):
    """Exact. One checkpoint a solve; graph memory O(N s L) as in `backprop`, but for one solve at a time."""

    name: ClassVar[str] = "onecheckpoint"
    holds_graph: ClassVar[bool] = True

    def recorder(self) -> Recorder:
        return FirstStep().recorder()

    def sweep(self, replay: Replay, cotangents: Cotangents, pullback: Pullback) -> InputGradients:
        outputs: list[Tensor | None] = []
        incoming: list[Tensor | None] = []
        with torch.enable_grad():
            y0 = replay.kept[0][0].detach().requires_grad_()
            t = replay.t.detach().requires_grad_() if replay.t_wanted else None
            y, q, slope = y0, replay.q0, None
            for n, record in enumerate(replay.records):
                following = n + 1 < len(replay.records) and not record.jump_at_end
                step = retake(replay, record, y, q, t, slope, next_slope=following)
                for total, part in zip(
                    (outputs, incoming), output_pairs(replay, record, step, y, q, t, cotangents), strict=True
                ):
                    total.extend(part)
                if record.end_tie is not None:
                    outputs.extend((step.y, step.q))
                    incoming.extend((cotangents.state(record.end_tie), cotangents.quadrature(record.end_tie)))
                last: Slope | None = step.slopes[-1]
                y, q, slope = step.y, step.q, (last if following else None)
        inputs = [y0] if t is None else [y0, t]
        grads = pullback.through(outputs, incoming, inputs)
        pullback.end_step()
        state = add(grads[0], cotangents.state(0))
        return InputGradients(state, total_quadrature(cotangents), grads[1] if t is not None else None)
