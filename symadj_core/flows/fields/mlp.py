"""The multilayer perceptron, whose divergence has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from symadj_core.compilation import is_to_be_compiled
from symadj_core.flows.fields.activations import ACTIVATIONS, ActivationName
from symadj_core.flows.fields.base import VectorField
from symadj_core.flows.fields.closed_form import AlongProbes
from symadj_core.flows.fields.closed_trace import ExactTrace
from symadj_core.flows.fields.layers import LAYERS, TimedLinear, TimeMode, zero_
from symadj_core.flows.inputs import as_shape
from symadj_core.solvers.system import Rates


def widths_for(inputs: int) -> tuple[int, ...]:
    """Widths of hidden layers that suit so many inputs.

    Stored flows are built by it: other widths would not take their weights.
    """
    return (128, 128, 128) if inputs <= 12 else (min(max(128, 8 * inputs), 1024),) * 2


class MLPField(VectorField):
    """A multilayer perceptron with the time in every layer.

    `field.compile()`, torch's own call, compiles the field, and with it (by torch's default settings) the divergence
    and the symplectic sweep's pullback in closed form. On a CPU the closed form leaves it nothing to gain
    (`docs/gradients.md` has the figures). A field of another kind is used as it is where its divergence is taken by
    autograd, which can't differentiate what torch.compile makes twice.

    Args:
        dim: D, dimension of the state.
        hidden: widths of the hidden layers; a number is one layer. None is by the inputs, D + C: three layers of 128
            for up to 12, and two of 8 for each input, from 128 to 1024, for more. Every layer must pass all of the
            inputs on beside what it learns of them, and with two the trace is exact at the cost of one probe.
        time: how the time enters, "concat", "concatsquash" or "fourier" (`symadj_core.flows.fields.layers`).
        activation: "tanh", "softplus" or "silu", between the layers.
        input_scale: times the first layer's initial weights and bias. Above 1 the field bends over shorter distances
            from the start, which gradient descent is slow to learn (spectral bias, Rahaman et al., ICML 2019; the w_0
            of SIREN, Sitzmann et al., NeurIPS 2020, is of this kind).
        zero_init: start with f = 0, so that the flow starts as the identity.
        context_dim: C; the context stands beside y at the first layer.

    Raises:
        ValueError: an unknown name, a size below 1, or a scale that is not positive.
    """

    name = "mlp"

    def __init__(
        self,
        dim: int,
        hidden: int | Sequence[int] | None = (64, 64),
        *,
        time: TimeMode = "concatsquash",
        activation: ActivationName = "tanh",
        input_scale: float = 1.0,
        zero_init: bool = False,
        context_dim: int = 0,
    ) -> None:
        super().__init__(dim, context_dim)
        layer = LAYERS[time]
        ACTIVATIONS.find(activation)  # an unknown name is refused here, not at the first use
        widths = widths_for(dim + context_dim) if hidden is None else as_shape(hidden)
        sizes = [dim + context_dim, *widths, dim]
        if min(sizes) < 1:
            raise ValueError(f"sizes must be at least 1: dim {dim}, hidden {widths}")
        if not 0 < input_scale < math.inf:
            raise ValueError(f"input_scale must be positive and finite, not {input_scale}")
        self.activation = activation
        self.layers = nn.ModuleList(layer(inputs, outputs) for inputs, outputs in pairwise(sizes))
        with torch.no_grad():
            for parameter in self.get_submodule("layers.0.linear").parameters():
                parameter.mul_(input_scale)
        if zero_init:
            zero_(self.layers[-1])

    @property
    def has_cheap_trace(self) -> bool:  # type: ignore[override]
        """With one or two hidden layers, or none; more take a product along every unit vector."""
        return len(self.layers) <= 3 and self._is_own()

    @property
    def knows_trace(self) -> bool:  # type: ignore[override]
        return self.has_cheap_trace

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
        activation, compiled = ACTIVATIONS[self.activation], is_to_be_compiled(self)
        return AlongProbes(layers, activation, noise, share=share, context=context, compiled=compiled)

    def traced(self, like: Tensor, differentiable: Rates, *, context: Callable[[], Tensor] | None = None) -> Rates:
        """f and its exact divergence, likewise; `like` [B, D] gives dtype and device."""
        layers = self._plain_layers(like.device)
        if layers is None:
            return differentiable
        if len(layers) not in (2, 3):
            basis = torch.eye(self.dim, dtype=like.dtype, device=like.device)[:, None, :]
            return self.along(basis, differentiable, share=1.0, context=context)
        activation, compiled = ACTIVATIONS[self.activation], is_to_be_compiled(self)
        return ExactTrace(layers, activation, self.dim, context=context, compiled=compiled)

    def _is_own(self) -> bool:
        """Whether no override changes what forward does."""
        return all(name not in self.__dict__ and getattr(type(self), name) is own for name, own in _OWN.items())

    def _plain_layers(self, device: torch.device) -> list[TimedLinear] | None:
        """The layers, if they and nothing else make up what forward does."""
        layers = [layer for layer in self.layers if isinstance(layer, TimedLinear)]
        plain = self._is_own()
        plain = plain and not torch.is_autocast_enabled(device.type)
        plain = plain and all(type(x) in LAYERS.values() for x in self.layers)
        plain = plain and all(type(x.linear) is nn.Linear for x in layers)
        plain = plain and not any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())
        return layers if plain else None


# What `along` and `traced` have in closed form.
_OWN = {name: getattr(MLPField, name) for name in ("forward", "inputs")}
