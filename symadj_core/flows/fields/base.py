"""The base class of vector fields, and the closed forms that a field may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from symadj_core.solvers.system import Rates


class VectorField(nn.Module):
    """A field f(t, y, c) of D dimensions, of the time and, where it was asked for, of a context.

    Its attributes say what it costs; a derived class overrides those that differ.

    Args:
        dim: D, dimension of the state.
        context_dim: C, dimension of the context; 0 for none.

    Attributes:
        name: in `FIELDS`.
        shape: (channels, height, width) of the image that a state holds; None if it is not an image.
        knows_trace: whether the exact divergence has a closed form that takes no product of the Jacobian with each
            unit vector by autograd.
        has_cheap_trace: whether the exact divergence costs no more than an estimate, in time and in memory.

    Raises:
        ValueError: dim below 1 or context_dim below 0.
    """

    name: ClassVar[str]
    shape: tuple[int, int, int] | None = None
    knows_trace: bool = False
    has_cheap_trace: bool = False

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__()
        if dim < 1 or context_dim < 0:
            raise ValueError(f"dim must be at least 1 and context_dim at least 0, not {dim} and {context_dim}")
        self.dim, self.context_dim = dim, context_dim

    def inputs(self, y: Tensor, context: Tensor | None) -> Tensor:
        """y beside its context, [B, D + C].

        Raises:
            ValueError: a context is missing, is not expected, or has another shape than [B, C].
        """
        if context is None and self.context_dim == 0:
            return y
        rows = y.shape[0]  # len(y) would fix the number of rows of an exported program
        if context is None or context.shape != (rows, self.context_dim):
            given = "none" if context is None else list(context.shape)
            raise ValueError(f"expected a context of shape [{rows}, {self.context_dim}], got {given}")
        return torch.cat([y, context.to(y.dtype)], -1)


@runtime_checkable
class KnowsDerivative(Protocol):
    """A field that knows its derivative along probes without autograd."""

    def along(
        self, noise: Tensor, differentiable: Rates, *, share: float, context: Callable[[], Tensor] | None = None
    ) -> Rates:
        """Rates equal to `differentiable`: f and share * sum over e of e . J e, for the probes e = `noise` [K, B, D].

        `context`, where there is one, gives the contexts [B, C] of the solve.
        """


@runtime_checkable
class KnowsTrace(Protocol):
    """A field that knows its exact divergence without autograd."""

    def traced(self, like: Tensor, differentiable: Rates, *, context: Callable[[], Tensor] | None = None) -> Rates:
        """Rates equal to `differentiable`, which takes the trace by autograd; `like` [B, D] gives dtype and device."""
