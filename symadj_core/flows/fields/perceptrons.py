"""Vector fields made of layers that know the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from symadj_core.flows.fields.activations import ACTIVATIONS, Activation
from symadj_core.flows.fields.closed_form import AlongProbes
from symadj_core.flows.fields.closed_trace import ExactTrace
from symadj_core.flows.fields.layers import LAYERS, TimedLinear
from symadj_core.solvers.system import Rates

TimeMode = Literal["concat", "concatsquash", "fourier"]
ActivationName = Literal["tanh", "softplus", "silu"]


class VectorField(nn.Module):
    """A field f(t, y, c) of D dimensions, of the time and, where it was asked for, of a context.

    Args:
        dim: D, dimension of the state.
        context_dim: C, dimension of the context; 0 for none.

    Raises:
        ValueError: dim below 1 or context_dim below 0.
    """

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__()
        if dim < 1 or context_dim < 0:
            raise ValueError(f"dim must be at least 1 and context_dim at least 0, not {dim} and {context_dim}")
        self.dim, self.context_dim = dim, context_dim

    def inputs(self, y: Tensor, context: Tensor | None) -> Tensor:
        """y beside its context, [B, D + C].

        Raises:
            ValueError: a context is missing, not wanted, or of another shape than [B, C].
        """
        if context is None and self.context_dim == 0:
            return y
        if context is None or context.shape != (len(y), self.context_dim):
            given = "none" if context is None else list(context.shape)
            raise ValueError(f"expected a context of shape [{len(y)}, {self.context_dim}], got {given}")
        return torch.cat([y, context.to(y.dtype)], -1)


class MLPField(VectorField):
    """A multilayer perceptron with the time in every layer.

    `field.compile()`, torch's own call, compiles the field, and with it (by torch's default settings) the divergence
    and the symplectic sweep's pullback in closed form. On a CPU the closed form leaves it nothing to gain
    (`docs/gradients.md` has the figures). A field of another kind is used as it is where its divergence is taken by
    autograd, which can't differentiate what torch.compile makes twice.

    Args:
        dim: D, dimension of the state.
        hidden: widths of the hidden layers.
        time: how the time enters, "concat", "concatsquash" or "fourier" (`symadj_core.flows.fields.layers`).
        activation: "tanh", "softplus" or "silu", between the layers.
        zero_init: start with f = 0, so that the flow starts as the identity.
        context_dim: C; the context stands beside y at the first layer.

    Raises:
        ValueError: an unknown name, or a size below 1.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        *,
        time: TimeMode = "concatsquash",
        activation: ActivationName = "tanh",
        zero_init: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(dim, context_dim)
        layer = _layer(time)
        _activation(activation)
        sizes = [dim + context_dim, *hidden, dim]
        if min(sizes) < 1:
            raise ValueError(f"sizes must be at least 1: dim {dim}, hidden {tuple(hidden)}")
        self.activation = activation
        self.layers = nn.ModuleList(layer(inputs, outputs) for inputs, outputs in pairwise(sizes))
        if zero_init:
            _zero(self.layers[-1])

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dy/dt [B, D] at the times t (0-dim or [B]), states y [B, D] and contexts [B, C]."""
        act = ACTIVATIONS[self.activation]
        *inner, last = self.layers
        y = self.inputs(y, context)
        for layer in inner:
            y = act(layer(t, y))
        out: Tensor = last(t, y)
        return out

    def along(
        self, noise: Tensor, differentiable: Rates, *, share: float, context: Callable[[], Tensor] | None = None
    ) -> Rates:
        """f and its derivative along fixed probes, in closed form where this is the plain perceptron.

        Args:
            noise: [K, B, D], the probes; [K, 1, D] where all samples share them.
            differentiable: the same function by way of autograd.
            share: weight of one probe in the sum over probes.
            context: gives the contexts [B, C] of the solve, where there are any.

        Returns:
            `differentiable` itself where an override, a hook, a parametrization or autocast changes what forward does.
        """
        layers = self._plain_layers(noise.device)
        if layers is None:
            return differentiable
        activation, compiled = ACTIVATIONS[self.activation], self._compiled_call_impl is not None
        return AlongProbes(layers, activation, noise, share=share, context=context, compiled=compiled)

    def traced(self, like: Tensor, differentiable: Rates, *, context: Callable[[], Tensor] | None = None) -> Rates:
        """f and its exact divergence, likewise; `like` [B, D] gives dtype and device."""
        layers = self._plain_layers(like.device)
        if layers is None:
            return differentiable
        if len(layers) not in (2, 3):
            basis = torch.eye(self.dim, dtype=like.dtype, device=like.device)[:, None, :]
            return self.along(basis, differentiable, share=1.0, context=context)
        activation, compiled = ACTIVATIONS[self.activation], self._compiled_call_impl is not None
        return ExactTrace(layers, activation, self.dim, context=context, compiled=compiled)

    def _plain_layers(self, device: torch.device) -> list[TimedLinear] | None:
        """The layers, if they and nothing else make up what forward does."""
        layers = [layer for layer in self.layers if isinstance(layer, TimedLinear)]
        plain = type(self).forward is _FORWARD and "forward" not in self.__dict__
        plain = plain and not torch.is_autocast_enabled(device.type)
        plain = plain and all(type(x) in LAYERS.values() for x in self.layers)
        plain = plain and all(type(x.linear) is nn.Linear for x in layers)
        plain = plain and not any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())
        return layers if plain else None


# What `along` and `traced` have in closed form.
_FORWARD = MLPField.forward


class ResidualField(VectorField):
    """A residual perceptron (He et al. 2016, with the activations first), the time in every layer.

        h_0 = A y,  h_i = h_{i-1} + C_i s(B_i s(h_{i-1})),  f = E s(h_depth)

    with A, B_i, C_i, E layers that know the time, and s the activation. A deep one trains better than a deep MLP.

    Args:
        dim: D, dimension of the state.
        width: of all hidden layers.
        depth: number of residual blocks, of two layers each.
        time, activation, zero_init, context_dim: as for `MLPField`.

    Raises:
        ValueError: an unknown name, or a size below 1.
    """

    def __init__(
        self,
        dim: int,
        width: int = 64,
        depth: int = 2,
        *,
        time: TimeMode = "concatsquash",
        activation: ActivationName = "tanh",
        zero_init: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(dim, context_dim)
        layer = _layer(time)
        _activation(activation)
        if min(width, depth) < 1:
            raise ValueError(f"width and depth must be at least 1, not {width} and {depth}")
        self.activation = activation
        self.first = layer(dim + context_dim, width)
        self.blocks = nn.ModuleList(nn.ModuleList([layer(width, width), layer(width, width)]) for _ in range(depth))
        self.last = layer(width, dim)
        if zero_init:
            _zero(self.last)

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dy/dt [B, D] at the times t (0-dim or [B]), states y [B, D] and contexts [B, C]."""
        act = ACTIVATIONS[self.activation]
        h = self.first(t, self.inputs(y, context))
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            inner, outer = block
            h = h + outer(t, act(inner(t, act(h))))
        out: Tensor = self.last(t, act(h))
        return out


def _layer(time: str) -> Callable[[int, int], TimedLinear]:
    if time not in LAYERS:
        raise ValueError(f"unknown time mode {time!r}: there are {', '.join(LAYERS)}")
    return LAYERS[time]


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _zero(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
