"""Peaks of live tensors against the number of steps N and of blocks M, beside the arithmetic of `methods`.

The field is a perceptron whose graph can be counted by hand: of one use autograd keeps the state and the two hidden
activations. Steps are fixed; the meter is exact (`symadj_core.memory.LiveTensorMeter`), so that the figures depend
on no machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.paper.methods import Method, methods
from benchmarks.paper.sizes import Size
from symadj_core import FixedStep, solve
from symadj_core.memory import LiveTensorMeter
from symadj_core.solvers import tableaus

__all__ = ["DIM", "GRAPH", "HIDDEN", "ROWS", "STATE", "Growth", "against_blocks", "against_steps", "peak"]

# A state is larger than the gradients of a block's parameters, which take its place in backward.
ROWS, DIM, HIDDEN = 256, 16, 32
STATE = ROWS * DIM * 4
GRAPH = ROWS * (DIM + 2 * HIDDEN) * 4


class Perceptron(nn.Module):
    """y' = W3 tanh(W2 tanh(W1 y)), float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(DIM, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, DIM)
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt [B, D]."""
        slope: Tensor = self.layers(y)
        return slope


@dataclass(frozen=True)
class Growth:
    """Peaks of one method over a range of N or of M.

    Attributes:
        label: the method's.
        counts: N or M.
        peaks: bytes, measured.
        predicted: bytes that depend on the count, by the arithmetic.
    """

    label: str
    counts: tuple[int, ...]
    peaks: tuple[int, ...]
    predicted: tuple[int, ...]

    @property
    def slope(self) -> float:
        """Measured bytes for one more, by least squares."""
        return float(np.polyfit(self.counts, self.peaks, 1)[0])

    @property
    def expected(self) -> float:
        """Bytes for one more by the arithmetic."""
        return float(np.polyfit(self.counts, self.predicted, 1)[0])

    @property
    def deviation(self) -> float:
        """|measured - expected|, beside the expected slope, or beside a state where none is expected."""
        return abs(self.slope - self.expected) / max(self.expected, STATE)


def peak(method: Method, solver: str, steps: int, blocks: int) -> int:
    """Return the peak in bytes of one gradient through so many blocks of so many equal steps over [0, 1]."""
    torch.manual_seed(0)
    fields = [Perceptron() for _ in range(blocks)]
    start, times = torch.randn(ROWS, DIM), torch.tensor([0.0, 1.0])

    def gradient() -> None:
        y = start
        for field in fields:
            controller = FixedStep(1.0 / steps)
            y = solve(field, y, times, solver=solver, controller=controller, gradient=method.gradient).ys[-1]
        torch.autograd.backward(y.square().mean())

    with LiveTensorMeter() as meter:
        gradient()
    return int(meter.peak_bytes)


def _growth(method: Method, solver: str, counts: Sequence[int], extent: Callable[[int], tuple[int, int]]) -> Growth:
    stages = tableaus.by_name(solver).stages
    peaks, predicted = [], []
    for count in counts:
        steps, blocks = extent(count)
        peaks.append(peak(method, solver, steps, blocks))
        predicted.append(method.bytes(steps=steps, blocks=blocks, stages=stages, state=STATE, graph=GRAPH))
    return Growth(method.label, tuple(counts), tuple(peaks), tuple(predicted))


def against_steps(size: Size) -> dict[str, list[Growth]]:
    """Return for every solver the methods' peaks against N, for one block."""
    return {
        solver: [_growth(method, solver, size.steps, lambda steps: (steps, 1)) for method in methods(STATE)]
        for solver in size.solvers
    }


def against_blocks(size: Size) -> list[Growth]:
    """Return the methods' peaks against M."""
    return [
        _growth(method, size.blocks_solver, size.blocks, lambda blocks: (size.blocks_steps, blocks))
        for method in methods(STATE)
    ]
