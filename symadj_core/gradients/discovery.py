"""Finding the tensors and modules that a field depends on, so that no gradient is dropped silently."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parallel import DistributedDataParallel

from symadj_core.gradients.substitution import substituted
from symadj_core.solvers.randomness import RandomState
from symadj_core.solvers.system import System

# How far a plain function is looked through for modules: function -> captured object -> its attribute -> ...
_DEPTH = 4
# A longer container holds data.
_LONGEST = 64


def modules_of(field: Any) -> tuple[nn.Module, ...]:
    """The modules that a field is, or whose method it is, or that a plain function captures or names.

    Raises:
        TypeError: one of them is, or has within it, a DistributedDataParallel module.
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    # The third entry says whether the field surely uses the thing: a method need not use all attributes of its object.
    pending: list[tuple[Any, int, bool]] = [(field, 0, True)]
    while pending:
        thing, depth, used = pending.pop()
        if id(thing) in seen or depth > _DEPTH:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            if not any(isinstance(module, DistributedDataParallel) for module in thing.modules()):
                found[id(thing)] = thing
            elif used:
                raise TypeError(
                    "the field must not be wrapped in DistributedDataParallel: its gradients would be reduced once a "
                    "use of the field, and wrongly; wrap the module that calls the solver"
                )
            continue
        if isinstance(thing, MethodType):
            owner = thing.__self__
            pending += [(owner, depth, used and isinstance(owner, nn.Module)), (thing.__func__, depth, used)]
            continue
        pending += [(part, depth + 1, used) for part in _parts(thing)]
    return tuple(found.values())


def _parts(thing: Any) -> Iterable[Any]:
    """What a function captures or names, what a container holds, the attributes of another object."""
    if isinstance(thing, FunctionType):
        if thing.__module__.partition(".")[0] == "torch":
            return []
        names = (name for name in thing.__code__.co_names if name in thing.__globals__)
        return [
            *(_contents(cell) for cell in thing.__closure__ or ()),
            *(thing.__globals__[name] for name in names),
            *(thing.__defaults__ or ()),
            *(thing.__kwdefaults__ or {}).values(),
        ]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, (list, tuple, dict)):
        items = thing.values() if isinstance(thing, dict) else thing
        return items if len(thing) <= _LONGEST else []
    if isinstance(thing, (Tensor, ModuleType, type)):
        return []
    return list(getattr(thing, "__dict__", {}).values())


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def discover_parameters(
    system: System, t: float, y: Tensor, modules: Sequence[nn.Module], *, with_quadrature: bool
) -> tuple[Tensor, ...]:
    """Leaves requiring grad that one trial use of the field at (t, y) depends on.

    The trial leaves no trace: random generators and the modules' buffers are as they were.

    Raises:
        ValueError: the field captures a tensor that is itself the result of differentiable operations. Its gradient
            can't be found by looking at leaves: it must be passed in `parameters`.
    """
    with torch.enable_grad(), RandomState.now(y.device).replayed(), substituted(modules, {}):
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


def leaves_of(outputs: Iterable[Tensor]) -> list[Tensor]:
    """The leaves requiring grad that the outputs depend on."""
    return _graph(outputs)[0]


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
