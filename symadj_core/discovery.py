"""Finding the tensors that a field depends on, so that no gradient is dropped in silence."""

from __future__ import annotations

from collections.abc import Iterable

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
        # Nodes are numbered as they are made: those before this one were not made by the trial.
        marker = torch.ones((), requires_grad=True) * 1.0
        assert marker.grad_fn is not None
        oldest = marker.grad_fn._sequence_nr()
        slope = system.slope(t, y.detach(), with_quadrature=with_quadrature)
    outputs = [x for x in (slope.state, slope.quadrature) if x is not None]
    leaves, nodes = _graph(outputs)
    captured = [node.name() for node in nodes if node._sequence_nr() < oldest]
    if captured:
        raise ValueError(
            "the field captures a tensor that is the result of differentiable operations "
            f"({', '.join(captured[:3])}): pass it in `parameters`, with all others whose gradients are wanted"
        )
    return tuple(leaves)


def check_closed(outputs: Iterable[Tensor], known: Iterable[Tensor]) -> None:
    """Check that a piece of graph depends on no other leaves than the known ones.

    Raises:
        RuntimeError: it does; the gradient of that tensor would have been dropped.
    """
    mine = {id(x) for x in known}
    strangers = [leaf for leaf in _graph(outputs)[0] if id(leaf) not in mine]
    if strangers:
        shapes = ", ".join(str(list(x.shape)) for x in strangers[:3])
        raise RuntimeError(
            f"the field depends on tensors that require grad and are not parameters of its module (shapes {shapes}): "
            "register them in the module, or pass all tensors whose gradients are wanted in `parameters`"
        )


def _graph(outputs: Iterable[Tensor]) -> tuple[list[Tensor], list[Node]]:
    """The leaves requiring grad that the outputs depend on, and the nodes between."""
    leaves: dict[int, Tensor] = {}
    nodes: set[Node] = set()
    pending: list[Node] = []
    for x in outputs:
        if x.grad_fn is not None:
            pending.append(x.grad_fn)
        elif x.requires_grad:
            leaves[id(x)] = x
    seen: set[Node] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves[id(leaf)] = leaf
        else:
            nodes.add(node)
            pending.extend(following for following, _ in node.next_functions if following is not None)
    return list(leaves.values()), list(nodes)
