"""Linear layers that know the time.

At a given time each of them is an affine map x -> x W^T + b, which is made explicit: the time enters W and b, not the
[B, outputs] activations. That takes fewer passes over memory, gives a smaller graph, and lets a perceptron's pullback
be written in closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimedLinear(nn.Module, ABC):
    """An affine map of x whose coefficients depend on t.

    What it does is written as functions of its parameters alone, so that a perceptron's closed form can be compiled.
    """

    linear: nn.Linear

    @abstractmethod
    def coefficients(self) -> tuple[Tensor, ...]:
        """The parameters, in the order in which the two functions below take them."""

    @staticmethod
    @abstractmethod
    def affine(t: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """W [outputs, inputs] and b [outputs] at the 0-dim time t."""

    @staticmethod
    @abstractmethod
    def pull(t: Tensor, weight: Tensor, bias: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
        """Gradients of W and b at time t, pulled back to the coefficients; may overwrite both."""

    def effective(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """W [outputs, inputs] and b [outputs] at the 0-dim time t."""
        return self.affine(t, *self.coefficients())

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        weight, bias = self.effective(t)
        return F.linear(x, weight, bias)


class ConcatLinear(TimedLinear):
    """W x + b + w t: a linear layer on (x, t) concatenated, without making the concatenation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.time = nn.Parameter(torch.empty(outputs).uniform_(-1, 1) / (inputs + 1) ** 0.5)

    def coefficients(self) -> tuple[Tensor, ...]:
        return self.linear.weight, self.linear.bias, self.time

    @staticmethod
    def affine(t: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, time = coefficients
        return weight, torch.addcmul(bias, time, t)

    @staticmethod
    def pull(t: Tensor, weight: Tensor, bias: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
        return weight, bias, bias * t


class ConcatSquashLinear(TimedLinear):
    """(W x + b) * sigmoid(u t + v) + w t, the layer of FFJORD (Grathwohl et al., ICLR 2019)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))
        self.gate_bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))
        self.shift = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))

    def coefficients(self) -> tuple[Tensor, ...]:
        return self.linear.weight, self.linear.bias, self.gate, self.gate_bias, self.shift

    @staticmethod
    def affine(t: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, gate, gate_bias, shift = coefficients
        opening = torch.addcmul(gate_bias, gate, t).sigmoid()
        return weight * opening[:, None], torch.addcmul(bias * opening, shift, t)

    @staticmethod
    def pull(t: Tensor, weight: Tensor, bias: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
        old_weight, old_bias, gate, gate_bias, _ = coefficients
        opening = torch.addcmul(gate_bias, gate, t).sigmoid()
        slope = torch.linalg.vecdot(weight, old_weight).addcmul_(bias, old_bias)
        slope.mul_(opening).mul_(1.0 - opening)
        shift = bias * t
        return weight.mul_(opening[:, None]), bias.mul_(opening), slope * t, slope, shift


LAYERS: dict[str, type[ConcatLinear] | type[ConcatSquashLinear]] = {
    "concat": ConcatLinear,
    "concatsquash": ConcatSquashLinear,
}
