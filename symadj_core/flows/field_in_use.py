"""A field as one solve uses it: with the contexts of its samples, and in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from symadj_core.flows.fields.base import KnowsDerivative, KnowsTrace
from symadj_core.solvers.system import Rates


class FieldInUse(nn.Module):
    """f(t, y) = field(t, y, context), its products of matrices in a reduced precision.

    Args:
        field: f(t, y), or f(t, y, context).
        context: [B, C], or None. It may require grad.
        dtype: of the products of matrices within the field, by way of autocast; None leaves them. What goes in and
            what comes out keeps the state's dtype.
    """

    def __init__(self, field: nn.Module, context: Tensor | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.field, self.dtype = field, dtype
        # Among the parameters, a context that is the result of an encoder gets its gradient from every method.
        self._parameters["context"] = context  # type: ignore[assignment]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self._call(self.field, t, y)

    def _context(self) -> Tensor:
        context = self._parameters["context"]
        assert context is not None
        return context

    def _call(self, function: Callable[..., Tensor], t: Tensor, y: Tensor) -> Tensor:
        """The function of (t, y, context) in the reduced precision, its result in y's dtype."""
        context = self._parameters["context"]
        with self._reduced(y):
            result = function(t, y) if context is None else function(t, y, context)
        return result.to(y.dtype)

    def _reduced(self, y: Tensor) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return nullcontext()
        # A cast made under no_grad must not be reused with a graph: no cache.
        return torch.autocast(y.device.type, dtype=self.dtype, cache_enabled=False)

    def hamilton_jacobi(self, t: Tensor, y: Tensor) -> Tensor:
        """The field's own, where it has one."""
        return self._call(self.field.hamilton_jacobi, t, y)  # type: ignore[arg-type]

    def along(self, noise: Tensor, differentiable: Rates, *, share: float) -> Rates:
        if self.dtype is not None or not isinstance(self.field, KnowsDerivative):
            return differentiable
        return self.field.along(noise, differentiable, share=share, context=self._context)

    def traced(self, like: Tensor, differentiable: Rates) -> Rates:
        if self.dtype is None and isinstance(self.field, KnowsTrace):
            return self.field.traced(like, differentiable, context=self._context)
        return differentiable
