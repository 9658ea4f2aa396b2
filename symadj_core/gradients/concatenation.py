"""Concatenated outputs: of those, the parts whose cotangent is not zero.

Users of torchdiffeq return the rates of the state and of the log-determinant in one tensor. Where a stage weighs the
one and not the other (dopri5's second weighs no quadrature), autograd would pull zeros back through the graph of the
other, which for a divergence is most of the work. Nothing is assumed about the field: a pullback is linear, so a zero
cotangent gives zero, whatever it is pulled through.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from symadj_core.autograd_engine import Output


class Parts(NamedTuple):
    """Of what an output is the concatenation: the dimension, and how long each part is."""

    dim: int
    lengths: list[int]

    @classmethod
    def of(cls, output: Tensor) -> Parts | None:
        """None if it is none, or not one of tensors that all have a graph."""
        edges = _edges(output)
        inputs = [edge.node._input_metadata[edge.output_nr] for edge in edges]
        # Those of another dtype would have to be cast.
        if not inputs or any(len(x.shape) != output.dim() or x.dtype != output.dtype for x in inputs):
            return None
        dim: int = output.grad_fn._saved_dim  # type: ignore[union-attr]
        # Counted from the end, it is saved as an unsigned number.
        dim = dim if dim < output.dim() else dim - 2**64 + output.dim()
        lengths = [x.shape[dim] for x in inputs]
        # Parts that are constants have no edge.
        return cls(dim, lengths) if sum(lengths) == output.shape[dim] else None

    def first_alone(self, cotangent: Tensor) -> tuple[Tensor, int | None]:
        """The cotangent of the first part and its dimension, if those of all others are zero; else all of it, and None.

        As below, a device that is not the host is not waited for.
        """
        if cotangent.device.type == "cpu":
            first, rest = torch.tensor_split(cotangent, [self.lengths[0]], self.dim)
            if not bool(rest.any()):
                return first, self.dim
        return cotangent, None


def parts_that_count(output: Tensor, cotangent: Tensor) -> list[tuple[Output, Tensor]]:
    """What to pull back in place of (output, cotangent): the parts of a concatenation whose cotangents are not zero.

    A device that is not the host would have to be waited for, and a hook of the output sees all of its cotangent: the
    output then stays as it is.
    """
    whole: list[tuple[Output, Tensor]] = [(output, cotangent)]
    parts = None if cotangent.device.type != "cpu" or output._backward_hooks else Parts.of(output)
    if parts is None or cotangent.dtype != output.dtype:
        return whole
    pairs = zip(_edges(output), torch.split(cotangent, parts.lengths, parts.dim), strict=True)
    counting: list[tuple[Output, Tensor]] = [(edge, part) for edge, part in pairs if bool(part.any())]
    return whole if len(counting) == len(parts.lengths) else counting


def _edges(output: Tensor) -> list[GradientEdge]:
    """Where the graph goes on from a concatenation: one edge for each part that is not a constant."""
    node = output.grad_fn
    if node is None or node.name() != "CatBackward0":
        return []
    return [GradientEdge(following, number) for following, number in node.next_functions if following is not None]
