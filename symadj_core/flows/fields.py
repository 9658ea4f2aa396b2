"""Vector fields of continuous flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["tanh", "softplus", "silu"]
TimeMode = Literal["concat", "concatsquash"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "softplus": F.softplus, "silu": F.silu}


class ConcatLinear(nn.Module):
    """W x + b + w t: a linear layer on (x, t) concatenated, without making the concatenation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.time = nn.Parameter(torch.empty(outputs).uniform_(-1, 1) / (inputs + 1) ** 0.5)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight, torch.addcmul(self.linear.bias, self.time, t))


class ConcatSquashLinear(nn.Module):
    """(W x + b) * sigmoid(u t + v) + w t, the layer of FFJORD (Grathwohl et al., ICLR 2019).

    The gate is the same for all samples, so that it is applied to W and b rather than to the [B, outputs]
    activations: fewer passes over memory, and a smaller graph.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))
        self.gate_bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))
        self.shift = nn.Parameter(torch.empty(outputs).uniform_(-1, 1))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        gate = torch.addcmul(self.gate_bias, self.gate, t).sigmoid()
        bias = torch.addcmul(self.linear.bias * gate, self.shift, t)
        return F.linear(x, self.linear.weight * gate[:, None], bias)


_LAYERS: dict[str, type[ConcatLinear] | type[ConcatSquashLinear]] = {
    "concat": ConcatLinear,
    "concatsquash": ConcatSquashLinear,
}


class MLPField(nn.Module):
    """A multilayer perceptron with the time in every layer.

    Args:
        dim: D, dimension of the state.
        hidden: widths of the hidden layers.
        time: how the time enters, "concat" or "concatsquash".
        activation: "tanh", "softplus" or "silu", between the layers.
        zero_init: start with f = 0, so that the flow starts as the identity.

    Raises:
        ValueError: an unknown name, or a size below 1.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        *,
        time: TimeMode = "concatsquash",
        activation: Activation = "tanh",
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        if time not in _LAYERS:
            raise ValueError(f"unknown time mode {time!r}: there are {', '.join(_LAYERS)}")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: there are {', '.join(_ACTIVATIONS)}")
        sizes = [dim, *hidden, dim]
        if min(sizes) < 1:
            raise ValueError(f"sizes must be at least 1: dim {dim}, hidden {tuple(hidden)}")
        self.dim = dim
        self.activation = activation
        self.layers = nn.ModuleList(_LAYERS[time](inputs, outputs) for inputs, outputs in pairwise(sizes))
        if zero_init:
            with torch.no_grad():
                for parameter in self.layers[-1].parameters():
                    parameter.zero_()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt [B, D] at the 0-dim time t and the states y [B, D]."""
        act = _ACTIVATIONS[self.activation]
        *inner, last = self.layers
        for layer in inner:
            y = act(layer(t, y))
        out: Tensor = last(t, y)
        return out
