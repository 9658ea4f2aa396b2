"""Checks of a flow's arguments, and their layout for its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """States [B, D], the samples' numbers [B] int64, and contexts [B, C] or None."""

    states: Tensor
    sample_index: Tensor
    context: Tensor | None


def as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """A shape, of which a number is one dimension: of samples, of a batch, of hidden layers.

    Raises:
        TypeError: it is neither.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if not all(isinstance(size, Integral) for size in sizes):
        raise TypeError(f"expected a whole number or a sequence of them, as (64, 64), not {shape!r}")
    return sizes


def flattened(x: Tensor, dim: int, sample_index: Tensor | None, context: Tensor | None, context_dim: int) -> Inputs:
    """One row for each sample.

    Args:
        x: [..., D].
        dim: D.
        sample_index: [...], or None for the samples' places in the batch.
        context: [..., C] or anything that broadcasts to it, or None.
        context_dim: C, 0 for a flow without context.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: x is not a floating point tensor.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"expected a floating point tensor, got {given}")
    shape = x.shape[:-1]
    if x.shape[-1:] != (dim,):
        raise ValueError(f"expected [..., {dim}], got {list(x.shape)}")
    states = x.reshape(-1, dim)
    check_context(context, context_dim)
    if context is not None:
        try:
            context = context.expand(*shape, -1)
        except RuntimeError:
            raise ValueError(
                f"a context {list(context.shape)} does not broadcast to {[*shape, context_dim]}: give one for each "
                "sample, or take flow.condition(context), whose samples are [*sample_shape, *batch, D]"
            ) from None
        context = context.reshape(-1, context_dim) if context_dim else None
    if sample_index is None:
        return Inputs(states, torch.arange(len(states), device=x.device), context)
    if sample_index.shape != shape:
        raise ValueError(f"sample_index has shape {list(sample_index.shape)} for x {list(x.shape)}")
    return Inputs(states, sample_index.reshape(-1).to(x.device), context)


def check_context(context: Tensor | None, context_dim: int) -> None:
    """Refuse a context of another width than a flow's fields take.

    Raises:
        ValueError: its width differs, it is missing, or the flow takes none.
    """
    if context is None:
        if context_dim:
            raise ValueError(
                f"this flow needs a context [..., {context_dim}]: give it, or take flow.condition(context)"
            )
    elif context.shape[-1:] != (context_dim,):
        if context_dim == 0:
            raise ValueError("this flow takes no context: make its fields with a context_dim")
        raise ValueError(f"expected a context [..., {context_dim}], got {list(context.shape)}")
