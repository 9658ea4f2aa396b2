"""Vector fields of continuous flows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from symadj_core.flows.activations import ACTIVATIONS
from symadj_core.flows.closed_form import PerceptronRates
from symadj_core.flows.layers import LAYERS, ConcatLinear, ConcatSquashLinear, TimedLinear
from symadj_core.system import Rates


class MLPField(nn.Module):
    """A multilayer perceptron with the time in every layer.

    `field.compile()`, torch's own call, compiles the field, and with it the divergence and the symplectic sweep's
    pullback. On a CPU the closed form leaves it nothing to gain (`docs/gradients.md` has the figures).

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
        time: Literal["concat", "concatsquash"] = "concatsquash",
        activation: Literal["tanh", "softplus", "silu"] = "tanh",
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        if time not in LAYERS:
            raise ValueError(f"unknown time mode {time!r}: there are {', '.join(LAYERS)}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: there are {', '.join(ACTIVATIONS)}")
        sizes = [dim, *hidden, dim]
        if min(sizes) < 1:
            raise ValueError(f"sizes must be at least 1: dim {dim}, hidden {tuple(hidden)}")
        self.dim = dim
        self.activation = activation
        self.layers = nn.ModuleList(LAYERS[time](inputs, outputs) for inputs, outputs in pairwise(sizes))
        if zero_init:
            with torch.no_grad():
                for parameter in self.layers[-1].parameters():
                    parameter.zero_()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt [B, D] at the 0-dim time t and the states y [B, D]."""
        act = ACTIVATIONS[self.activation]
        *inner, last = self.layers
        for layer in inner:
            y = act(layer(t, y))
        out: Tensor = last(t, y)
        return out

    def along(self, noise: Tensor, differentiable: Rates) -> Rates:
        """f and the estimate of its divergence along fixed probes, in closed form where this is the plain perceptron.

        Args:
            noise: [K, B, D], the probes.
            differentiable: the same function by way of autograd.

        Returns:
            `differentiable` itself where an override, a hook, a parametrization or autocast changes what forward does.
        """
        layers = [layer for layer in self.layers if isinstance(layer, TimedLinear)]
        plain = type(self).forward is _FORWARD and "forward" not in self.__dict__
        plain = plain and not torch.is_autocast_enabled(noise.device.type)
        plain = plain and all(type(x) in (ConcatLinear, ConcatSquashLinear) for x in layers)
        plain = plain and all(type(x.linear) is nn.Linear for x in layers)
        plain = plain and not any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())
        if not plain:
            return differentiable
        compiled = self._compiled_call_impl is not None
        return PerceptronRates(layers, ACTIVATIONS[self.activation], noise, differentiable, compiled=compiled)


# What `along` has in closed form.
_FORWARD = MLPField.forward
