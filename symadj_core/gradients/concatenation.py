"""Concatenated outputs: of those, the parts whose cotangent is not zero.

Users of torchdiffeq return the rates of the state and of the log-determinant in one tensor. Where a stage weighs the
one and not the other (dopri5's second weighs no quadrature), autograd would pull zeros back through the graph of the
other, which for a divergence is most of the work. Nothing is assumed about the field: a pullback is linear, so a zero
cotangent gives zero, whatever it is pulled through.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from symadj_core.autograd_engine import Output


def parts_that_count(output: Tensor, cotangent: Tensor) -> list[tuple[Output, Tensor]]:
    """What to pull back in place of (output, cotangent): the parts of a concatenation whose cotangents are not zero.

    A device that is not the host would have to be waited for, and a hook of the output sees all of its cotangent: the
    output then stays as it is.
    """
    node = output.grad_fn
    whole: list[tuple[Output, Tensor]] = [(output, cotangent)]
    if node is None or node.name() != "CatBackward0" or cotangent.device.type != "cpu" or output._backward_hooks:
        return whole
    edges = [GradientEdge(following, number) for following, number in node.next_functions if following is not None]
    inputs = [edge.node._input_metadata[edge.output_nr] for edge in edges]
    dim: int = node._saved_dim  # type: ignore[attr-defined]
    # Counted from the end, it is saved as an unsigned number.
    dim = dim if dim < output.dim() else dim - 2**64
    # Parts that are constants have no edge, and those of another dtype would have to be cast.
    lengths = [x.shape[dim] for x in inputs if len(x.shape) == output.dim() and x.dtype == cotangent.dtype]
    if len(lengths) != len(node.next_functions) or sum(lengths) != output.shape[dim]:
        return whole
    parts = zip(edges, torch.split(cotangent, lengths, dim), strict=True)
    counting: list[tuple[Output, Tensor]] = [(edge, part) for edge, part in parts if bool(part.any())]
    return whole if len(counting) == len(edges) else counting
