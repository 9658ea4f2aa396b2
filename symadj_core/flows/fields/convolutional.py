"""A convolutional vector field for images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symadj_core.flows.fields.activations import ACTIVATIONS, ActivationName
from symadj_core.flows.fields.base import VectorField
from symadj_core.flows.fields.layers import LAYERS, TimeMode, zero_
from symadj_core.flows.inputs import as_shape

_SIDE = 3


class TimedConvolution(nn.Module):
    """A convolution whose coefficients depend on t: a layer of `flows.fields.layers` on every patch of 3 x 3.

    Args:
        inputs, outputs: channels. The border is padded with zeros, so that the image keeps its size.
        time: how the time enters, a name in `LAYERS`.
    """

    def __init__(self, inputs: int, outputs: int, time: TimeMode) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.patch = LAYERS[time](inputs * _SIDE**2, outputs)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W] at the time t, 0-dim or [B]."""
        coefficients = self.patch.coefficients()
        if t.dim() == 0:
            return self._convolve(x, *self.patch.affine(t, *coefficients))
        z = self._convolve(x, self.patch.linear.weight, self.patch.linear.bias).movedim(1, -1)
        moments = t.repeat_interleave(z.shape[1] * z.shape[2])
        return self.patch.modulate(moments, z.flatten(0, 2), *coefficients).view(z.shape).movedim(-1, 1)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight.view(self.outputs, self.inputs, _SIDE, _SIDE), bias, padding=_SIDE // 2)


class ConvField(VectorField):
    """Convolutions of 3 x 3 with the time in every layer, after FFJORD (Grathwohl et al., ICLR 2019).

    There "concat" gives the time as a plane beside the channels, padded with zeros; here the time is the same at the
    border as elsewhere.

    Args:
        shape: (C, H, W) of the image that the state holds, D = C H W.
        hidden: channels of the hidden layers; a number is one layer.
        time: how the time enters, "concat", "concatsquash" or "fourier" (`symadj_core.flows.fields.layers`).
        activation: "tanh", "softplus" or "silu", between the layers.
        zero_init: start with f = 0, so that the flow starts as the identity.
        context_dim: of the context; each value is a constant plane beside the channels at the first layer.

    Raises:
        ValueError: an unknown name, or a size below 1.
    """

    name = "convolutional"
    shape: tuple[int, int, int]

    def __init__(
        self,
        shape: tuple[int, int, int],
        hidden: int | Sequence[int] = (64, 64, 64),
        *,
        time: TimeMode = "concat",
        activation: ActivationName = "softplus",
        zero_init: bool = False,
        context_dim: int = 0,
    ) -> None:
        channels, height, width = shape
        widths = as_shape(hidden)
        if min(*shape, *widths) < 1:
            raise ValueError(f"sizes must be at least 1: shape {tuple(shape)}, hidden {widths}")
        super().__init__(channels * height * width, context_dim)
        ACTIVATIONS.find(activation)  # an unknown name is refused here, not at the first use
        self.shape, self.activation = (channels, height, width), activation
        sizes = [channels + context_dim, *widths, channels]
        self.layers = nn.ModuleList(TimedConvolution(inputs, outputs, time) for inputs, outputs in pairwise(sizes))
        if zero_init:
            zero_(self.layers[-1])

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dy/dt [B, D] at the times t (0-dim or [B]), states y [B, D] and contexts [B, context_dim]."""
        act = ACTIVATIONS[self.activation]
        *inner, last = self.layers
        planes = self.inputs(y, context)[:, self.dim :, None, None].expand(-1, -1, *self.shape[1:])
        h = y.view(-1, *self.shape)
        if self.context_dim:
            h = torch.cat([h, planes], 1)
        for layer in inner:
            h = act(layer(t, h))
        return last(t, h).flatten(1)  # type: ignore[no-any-return]
