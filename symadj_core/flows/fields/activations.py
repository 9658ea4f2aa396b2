"""Activations with the derivatives that a perceptron's closed-form pullback needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from symadj_core.flows.fields.products import linear, linear_tanh
from symadj_core.registry import Registry


class Activation(ABC):
    """s(z), elementwise, with s' and s''. `kept` is what the derivatives need, as `evaluate` returned it."""

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """s(z), differentiable by autograd."""

    @abstractmethod
    def evaluate(self, z: Tensor) -> tuple[Tensor, Any]:
        """s(z), which may overwrite z, and what the derivatives need."""

    def after_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Any]:
        """As `evaluate`, of x W^T + b."""
        return self.evaluate(linear(x, weight, bias))

    @abstractmethod
    def with_graph(self, z: Tensor) -> tuple[Tensor, Any]:
        """As `evaluate`, with autograd's graph; `slope` and `scale` then have it too."""

    @abstractmethod
    def slope(self, kept: Any) -> Tensor:
        """s'(z)."""

    @abstractmethod
    def scale(self, x: Tensor, kept: Any) -> Tensor:
        """s'(z) x."""

    @abstractmethod
    def bend(self, straight: Tensor, product: Tensor, kept: Any) -> Tensor:
        """s'(z) straight + s''(z) product; may overwrite both."""


class Tanh(Activation):
    def __call__(self, z: Tensor) -> Tensor:
        return torch.tanh(z)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        a = z.tanh_()
        return a, a

    def after_linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        a = linear_tanh(x, weight, bias)
        return a, a

    def with_graph(self, z: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.tanh(z)
        return a, a

    def slope(self, kept: Tensor) -> Tensor:
        return 1.0 - kept.square()

    def scale(self, x: Tensor, kept: Tensor) -> Tensor:
        # One pass over memory for x (1 - a^2).
        return torch.ops.aten.tanh_backward(x, kept)  # type: ignore[no-any-return]

    def bend(self, straight: Tensor, product: Tensor, kept: Tensor) -> Tensor:
        # s'' = -2 a s'.
        return self.scale(straight.addcmul_(kept, product, value=-2.0), kept)


class Softplus(Activation):
    def __call__(self, z: Tensor) -> Tensor:
        # Where torch takes z for log(1 + e^z) is put off until they are the same in float64 too.
        return F.softplus(z, threshold=40.0)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self(z), z.sigmoid_()

    def with_graph(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self(z), z.sigmoid()

    def slope(self, kept: Tensor) -> Tensor:
        return kept

    def scale(self, x: Tensor, kept: Tensor) -> Tensor:
        return x * kept

    def bend(self, straight: Tensor, product: Tensor, kept: Tensor) -> Tensor:
        # s'' = s' (1 - s').
        return straight.add_(product).addcmul_(product, kept, value=-1.0).mul_(kept)


class SiLU(Activation):
    def __call__(self, z: Tensor) -> Tensor:
        return F.silu(z)

    def evaluate(self, z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        gate = z.sigmoid()
        value, rest = F.silu(z), 1.0 - gate
        # s' = g + v (1 - g), s'' = (1 - g) (g + s' - v g) with g the gate and v the value. As g + v - v g, s' would be
        # what rounding leaves of it where v is large.
        first = torch.addcmul(gate, value, rest)
        return value, (first, torch.addcmul(gate + first, value, gate, value=-1.0).mul_(rest))

    def with_graph(self, z: Tensor) -> tuple[Tensor, tuple[Tensor, None]]:
        gate, value = z.sigmoid(), F.silu(z)
        return value, (gate + value * (1.0 - gate), None)

    def slope(self, kept: tuple[Tensor, Tensor | None]) -> Tensor:
        return kept[0]

    def scale(self, x: Tensor, kept: tuple[Tensor, Tensor | None]) -> Tensor:
        return x * kept[0]

    def bend(self, straight: Tensor, product: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
        first, second = kept
        return straight.mul_(first).addcmul_(product, second)


ActivationName = Literal["tanh", "softplus", "silu"]
ACTIVATIONS: Registry[Activation] = Registry("activation", {"tanh": Tanh(), "softplus": Softplus(), "silu": SiLU()})
