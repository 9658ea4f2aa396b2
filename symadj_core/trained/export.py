"""A trained flow as modules of plain tensor operations, for `torch.export`, ONNX and whatever takes these.

An exported program has no loop whose length depends on the data and no call of autograd: so the solve is unrolled with
as many steps as are asked for, by any tableau of `symadj_core.solvers.tableaus`, and the trace is the closed form of
the field. The transforms are inside: rows are in the data's own units.

    program = torch.export.export(scorer(flow, steps=20), (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))

Nothing checks rows in such a program: what is not finite, or outside of what a transform takes, comes out as NaN.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from symadj_core.flows import Block, Flow
from symadj_core.flows.fields.base import KnowsTrace
from symadj_core.solvers.system import Rates
from symadj_core.solvers.tableaus import TABLEAUS, ButcherTableau
from symadj_core.trained.flow import TrainedFlow
from symadj_core.transforms import FittedTransform

__all__ = ["Sampler", "Scorer", "sampler", "scorer"]


def sampler(
    flow: TrainedFlow, *, steps: int, method: str | ButcherTableau = "rk4", dtype: torch.dtype = torch.float64
) -> Sampler:
    """The module z [B, D] (, context [B, C]) -> rows [B, *event_shape] in the data's units.

    z are standard normal values, which the caller draws: `torch.randn`, or numpy's generator beside onnxruntime.

    Args:
        flow: of any field.
        steps: of each block. Compare with `flow.from_base(z)` to see how many are enough: twice as many steps divide
            the error by 2 to the power of the method's order.
        method: a tableau or its name.
        dtype: of all that goes in, comes out and is in between.

    Raises:
        ValueError: steps below 1, or an unknown method.
    """
    return Sampler(flow, steps, method, dtype)


def scorer(
    flow: TrainedFlow, *, steps: int, method: str | ButcherTableau = "rk4", dtype: torch.dtype = torch.float64
) -> Scorer:
    """The module rows [B, *event_shape] (, context [B, C]) -> log-density [B] in nats, per unit of the data.

    Rows of dequantised data must come with noise: the module adds none.

    Args:
        flow: of fields whose exact trace has a closed form (`traced`): "mlp" and "potential" do.
        steps, method, dtype: as for `sampler`.

    Raises:
        ValueError: as `sampler`, or a field whose trace takes autograd, which can't be exported.
    """
    for number, block in enumerate(flow.flow.stack()):
        if _closed_trace(block.field, torch.empty(1, _width(block, flow.flow)), None) is None:
            raise ValueError(
                f"log_prob can't be exported: the field of block {number}, {type(block.field).__name__}, has no closed "
                "form of its exact trace, and a program can't call autograd. Export the sampler, or train a flow with "
                "field.kind mlp or potential"
            )
    return Scorer(flow, steps, method, dtype)


class _FixedSteps(nn.Module):
    """A copy of the flow's weights, and solves of them with fixed steps."""

    def __init__(self, flow: TrainedFlow, steps: int, method: str | ButcherTableau, dtype: torch.dtype) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        self.steps, self.tableau, self.dtype = steps, TABLEAUS.find(method), dtype
        self.flow = copy.deepcopy(flow.flow.with_settings(full_precision=True)).to(dtype).requires_grad_(False)
        self.space = flow.space
        self.transforms: tuple[FittedTransform, ...] = flow.space.transforms
        self.durations = [float(block.duration()) for block in self.flow.stack()]
        self.eval()

    def _context(self, context: Tensor | None) -> Tensor | None:
        """The contexts [B, C] as the fields take them."""
        if (context is None) != (self.flow.context_dim == 0):
            expected = f"a context [B, {self.flow.context_dim}]" if self.flow.context_dim else "no context"
            raise ValueError(f"this flow takes {expected}")
        transform = self.space.context_transform
        return context if context is None or transform is None else transform(context)[0]

    def _solve(self, rates: Rates, y: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """The states [B, d] at the end time, and the integral [B] of the second of the rates."""
        tableau, step = self.tableau, (end - start) / self.steps
        total = torch.zeros_like(y[:, 0])
        for number in range(self.steps):
            t = start + number * step
            slopes: list[Tensor] = []
            # The last stage of an FSAL method has no weight in the step.
            for row, node in zip(tableau.a[: tableau.stages], tableau.c[: tableau.stages], strict=True):
                moment = torch.tensor(t + node * step, dtype=self.dtype, device=y.device)
                slope, gained = rates(moment, _moved(y, slopes, row, step))
                weight = tableau.b[len(slopes)] * step
                total = total + weight * gained if weight else total
                slopes.append(slope)
            y = _moved(y, slopes, tableau.b[: tableau.stages], step)
        return y, total


class Sampler(_FixedSteps):
    """From base to data; `sampler` makes it."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Rows [B, *event_shape] of z [B, D] and, for a conditional flow, contexts [B, C]."""
        y, given = z, self._context(context)
        for block, duration in reversed(list(zip(self.flow.stack(), self.durations, strict=True))):
            part, _ = self._solve(_states_only(block, given), block.part(y), duration, 0.0)
            y = block.with_part(y, part)
        for transform in reversed(self.transforms):
            y = transform.inverse(y)
        return y.reshape(-1, *self.space.event_shape)


class Scorer(_FixedSteps):
    """From data to their log-density; `scorer` makes it."""

    def forward(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """log p [B] of rows [B, *event_shape] and, for a conditional flow, contexts [B, C]."""
        y, given = rows.reshape(-1, self.flow.dim), self._context(context)
        log_prob = torch.full_like(y[:, 0], -0.5 * self.flow.dim * math.log(2 * math.pi))
        for transform in self.transforms:
            y, change = transform(y)
            log_prob = log_prob + change
        for block, duration in zip(self.flow.stack(), self.durations, strict=True):
            moved = block.part(y)
            rates = _closed_trace(block.field, moved, given)
            assert rates is not None  # `scorer` has looked
            part, gained = self._solve(rates, moved, 0.0, duration)
            y, log_prob = block.with_part(y, part), log_prob + gained
        return log_prob - 0.5 * y.square().sum(-1)


def _moved(y: Tensor, slopes: list[Tensor], weights: tuple[float, ...], step: float) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        y = y + (weight * step) * slope if weight else y
    return y


def _states_only(block: Block, context: Tensor | None) -> Rates:
    field = block.field_for(context)
    return lambda t, y: (field(t, y), torch.zeros_like(y[:, 0]))


def _closed_trace(field: nn.Module, like: Tensor, context: Tensor | None) -> Rates | None:
    """(t, y) -> (f, div f) without autograd, or None where the field has no such form."""
    if not isinstance(field, KnowsTrace):
        return None

    def by_autograd(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError(f"the exact trace of {type(field).__name__} takes autograd, which a program can't call")

    given: Callable[[], Tensor] | None = None if context is None else lambda: context
    rates = field.traced(like, by_autograd, context=given)
    return None if rates is by_autograd else rates


def _width(block: Block, flow: Flow) -> int:
    return block.part(torch.empty(1, flow.dim)).shape[-1]
