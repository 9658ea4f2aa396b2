"""Linear layers that know the time.

At a given time each of them is an affine map x -> x W^T + b, which is made explicit: the time enters W and b, not the
[B, outputs] activations. That takes fewer passes over memory, gives a smaller graph, and lets a perceptron's pullback
be written in closed form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symadj_core.registry import Classes


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

    @staticmethod
    @abstractmethod
    def modulate(t: Tensor, z: Tensor, *coefficients: Tensor) -> Tensor:
        """The layer's result [B, outputs] from z = `linear`(x), each sample at its own time t [B]."""

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs] at the time t, 0-dim or [B]."""
        if t.dim() > 0:
            return self.modulate(t, self.linear(x), *self.coefficients())
        weight, bias = self.affine(t, *self.coefficients())
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
    def modulate(t: Tensor, z: Tensor, *coefficients: Tensor) -> Tensor:
        return torch.addcmul(z, coefficients[2], t[:, None])

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
    def modulate(t: Tensor, z: Tensor, *coefficients: Tensor) -> Tensor:
        _, _, gate, gate_bias, shift = coefficients
        opening = torch.addcmul(gate_bias, gate, t[:, None]).sigmoid()
        return torch.addcmul(z * opening, shift, t[:, None])

    @staticmethod
    def pull(t: Tensor, weight: Tensor, bias: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
        old_weight, old_bias, gate, gate_bias, _ = coefficients
        opening = torch.addcmul(gate_bias, gate, t).sigmoid()
        slope = torch.linalg.vecdot(weight, old_weight).addcmul_(bias, old_bias)
        slope.mul_(opening).mul_(1.0 - opening)
        shift = bias * t
        return weight.mul_(opening[:, None]), bias.mul_(opening), slope * t, slope, shift


class FourierLinear(TimedLinear):
    """(W x + b) * sigmoid(U phi(t) + u) + V phi(t): the layer of FFJORD with a Fourier series in place of t.

    phi(t) = (cos(pi t), ..., cos(pi K t), sin(pi t), ..., sin(pi K t)), K = `waves`: from t = 0 to 1 the first wave
    goes through half its period.
    """

    waves = 3

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = self.waves**-0.5
        self.gate = nn.Parameter(torch.empty(outputs, 2 * self.waves).uniform_(-bound, bound))
        self.gate_bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))
        self.shift = nn.Parameter(torch.empty(outputs, 2 * self.waves).uniform_(-bound, bound))

    def coefficients(self) -> tuple[Tensor, ...]:
        return self.linear.weight, self.linear.bias, self.gate, self.gate_bias, self.shift

    @staticmethod
    def affine(t: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, gate, gate_bias, shift = coefficients
        phi = _fourier(t, gate)
        opening = F.linear(phi, gate, gate_bias).sigmoid()
        return weight * opening[:, None], torch.addcmul(F.linear(phi, shift), bias, opening)

    @staticmethod
    def modulate(t: Tensor, z: Tensor, *coefficients: Tensor) -> Tensor:
        _, _, gate, gate_bias, shift = coefficients
        phi = _fourier(t, gate)
        return torch.addcmul(F.linear(phi, shift), z, F.linear(phi, gate, gate_bias).sigmoid())

    @staticmethod
    def pull(t: Tensor, weight: Tensor, bias: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
        old_weight, old_bias, gate, gate_bias, _ = coefficients
        phi = _fourier(t, gate)
        opening = F.linear(phi, gate, gate_bias).sigmoid()
        slope = torch.linalg.vecdot(weight, old_weight).addcmul_(bias, old_bias)
        slope.mul_(opening).mul_(1.0 - opening)
        shift = torch.outer(bias, phi)
        return weight.mul_(opening[:, None]), bias.mul_(opening), torch.outer(slope, phi), slope, shift


def _fourier(t: Tensor, like: Tensor) -> Tensor:
    """phi(t), [*t.shape, 2 K], for coefficients `like` [outputs, 2 K]."""
    waves = torch.arange(1, like.shape[1] // 2 + 1, dtype=t.dtype, device=t.device)
    angle = t[..., None] * (math.pi * waves)
    return torch.cat([angle.cos(), angle.sin()], -1)


def zero_(module: nn.Module) -> None:
    """Make a layer zero in place, for all inputs."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()


TimeMode = Literal["concat", "concatsquash", "fourier"]
LAYERS: Classes[TimedLinear] = Classes(
    "time mode", {"concat": ConcatLinear, "concatsquash": ConcatSquashLinear, "fourier": FourierLinear}
)
