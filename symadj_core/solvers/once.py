"""First derivatives that refuse to be differentiated, rather than to look constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Once(torch.autograd.Function):
    """`Once.apply(message, grad, *inputs)`: the gradient, depending on `inputs` so that a second derivative is noticed.

    Args:
        message: the error of a second derivative.
        grad: the first derivative.
        inputs: all that it depends on.
    """

    @staticmethod
    def forward(ctx: Any, message: str, grad: Tensor, *inputs: Tensor | None) -> Tensor:
        ctx.message = message
        return grad.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError(ctx.message)
