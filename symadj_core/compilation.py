"""torch.compile as symadj uses it: of whole functions, where a module's `compile()` asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx, nn

_BACKEND = "inductor"


def is_to_be_compiled(module: nn.Module) -> bool:
    """Whether the module's `compile()` was called, or torch.compile has wrapped another module in this one."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def uncompiled() -> AbstractContextManager[None]:
    """Within it all modules are used as if nothing was compiled."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


@functools.cache
def compiled(
    function: Callable[..., Any],
    *,
    dynamic: bool | None = None,
    whole: bool = True,
    rewrite: Callable[[fx.Graph], None] | None = None,
) -> Callable[..., Any]:
    """The function by way of torch.compile.

    Args:
        function: what is compiled, once for all that call it.
        dynamic: True for one graph of any shapes, False for one of each; None for one of the first shapes, and one of
            any once others come.
        whole: raise torch's errors where it does not take all of the function as one graph, or has compiled it for as
            many shapes as it does; otherwise what is left runs as it is, and torch warns.
        rewrite: changes the graph that torch has traced, before autograd's operations in it are.
    """

    def backend(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        if rewrite is not None:
            rewrite(graph.graph)
            graph.recompile()
        program: Callable[..., Any] = torch._dynamo.lookup_backend(_BACKEND)(graph, list(inputs))
        return program

    return torch.compile(function, fullgraph=whole, dynamic=dynamic, backend=_BACKEND if rewrite is None else backend)
