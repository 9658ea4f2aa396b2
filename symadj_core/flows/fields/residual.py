"""The residual perceptron."""

from __future__ import annotations

from torch import Tensor, nn

from symadj_core.flows.fields.activations import ACTIVATIONS, ActivationName
from symadj_core.flows.fields.base import VectorField
from symadj_core.flows.fields.layers import LAYERS, TimeMode, zero_


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

    name = "residual"

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
        layer = LAYERS[time]
        ACTIVATIONS.find(activation)  # an unknown name is refused here, not at the first use
        if min(width, depth) < 1:
            raise ValueError(f"width and depth must be at least 1, not {width} and {depth}")
        self.activation = activation
        self.first = layer(dim + context_dim, width)
        self.blocks = nn.ModuleList(nn.ModuleList([layer(width, width), layer(width, width)]) for _ in range(depth))
        self.last = layer(width, dim)
        if zero_init:
            zero_(self.last)

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
