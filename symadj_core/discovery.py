"""Finding the tensors that a field depends on, so that no gradient is dropped in silence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import Node

from symadj_core.system import System


def discover_parameters(system: System, t: float, y: Tensor, *, with_quadrature: bool) -> tuple[Tensor, ...]:
    """Leaves requiring grad that one trial use of the field at (t, y) depends on.

    Costs one use of the field, and only where grad mode is on.

    Raises:
        ValueError: the field captures a tensor that is itself the result of differentiable operations. Its gradient
            can't be found by looking at leaves: it must be passed in `parameters`.
    """
    if not torch.is_grad_enabled():
        return ()
    with torch.enable_grad():
        marker = torch.ones((), requires_grad=True) * 1.0
        assert marker.grad_fn is not None
        oldest = marker.grad_fn._sequence_nr()
        slope = system.slope(t, y.detach(), with_quadrature=with_quadrature)
    found: dict[int, Tensor] = {}
    pending = [x.grad_fn for x in slope if x is not None and x.grad_fn is not None]
    for x in slope:
        if x is not None and x.is_leaf and x.requires_grad:
            found[id(x)] = x
    seen: set[Node] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        elif node._sequence_nr() < oldest:
            raise ValueError(
                "the field captures a tensor that is the result of differentiable operations "
                f"({node.name()}): pass it in `parameters`, with all other tensors whose gradients are wanted"
            )
        pending.extend(following for following, _ in node.next_functions if following is not None)
    return tuple(found.values())
