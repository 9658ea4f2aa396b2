"""A user's field and its vector-Jacobian product, each as one function that torch.compile has made.

`field.compile()`, torch's own call, asks for it. A field that takes a divergence by autograd is then differentiated
twice, which torch.compile refuses for what it has made of the field alone. The symplectic sweep asks for less: a whole
vector-Jacobian product, which torch traces with the calls of `torch.autograd.grad` within, and which needs no graph.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from symadj_core.compilation import compiled, is_to_be_compiled, uncompiled

_SETTINGS = {
    "trace_autograd_ops": True,
    # Fields count their uses, and each number would be compiled for itself.
    "allow_unspec_int_on_nn_module": True,
    # All fields of a process share the two functions below.
    "recompile_limit": 64,
}
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
# Fields that torch.compile did not take: it is not asked again at every solve.
_REFUSED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class CompiledField:
    """f(t, y) and its pullback, compiled.

    Args:
        module: the field.
        owner: the module that was to be compiled, if the field is made of it anew for every solve.
    """

    def __init__(self, module: nn.Module, owner: nn.Module | None = None) -> None:
        self._module = module
        self._owner = module if owner is None else owner
        self._rests = False

    @classmethod
    def of(cls, field: object) -> CompiledField | None:
        """The field compiled; None where that was not asked for."""
        original = getattr(field, "_orig_mod", field)
        if not isinstance(original, nn.Module):
            return None
        owner = getattr(original, "joined_owner", original)
        asked = original is not field or is_to_be_compiled(owner)
        return cls(original, owner) if asked else None

    def plain(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y) as if nothing was compiled; with a graph in grad mode."""
        with uncompiled():
            slope: Tensor = self._module(t, y)
            return slope

    def rest(self) -> None:
        """Do without torch.compile in this solve."""
        self._rests = True

    def slope(self, t: Tensor, y: Tensor) -> Tensor | None:
        """f(t, y) without a graph; None if torch.compile does not take it, which is said once."""
        # Of what inference mode has made, no derivative may be taken within the field.
        slope: Tensor | None = None if y.is_inference() else self._run(compiled(_slope), t, y)
        return slope

    def pull(
        self, t: Tensor, y: Tensor, cotangent: Tensor, leaves: Sequence[Tensor], dim: int | None
    ) -> list[Tensor | None] | None:
        """The cotangent of f pulled back to y and to leaves that f uses; likewise.

        Args:
            t: 0-dim.
            y: the state, of any shape.
            cotangent: of f, of y's shape; with `dim` of its first part, if f is a concatenation along that dimension.
            leaves: that get a gradient, None where f does not use them.
            dim: as said; None for all of f.
        """
        pull = compiled(_pull, rewrite=_take_first_parts)
        grads: list[Tensor | None] | None = self._run(pull, t, y, cotangent, tuple(leaves), dim)
        return grads

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._rests or self._owner in _REFUSED:
            return None
        try:
            with torch._dynamo.config.patch(_SETTINGS):
                return function(self._module, *arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever it is: if the field itself is at fault, its plain use says so.
            _REFUSED.add(self._owner)
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            warnings.warn(
                f"torch.compile does not take this {type(self._owner).__name__}, which is used as it is: "
                f"{type(error).__name__}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None


def _slope(module: nn.Module, t: Tensor, y: Tensor) -> Tensor:
    # A field that takes its divergence makes its state require grad, which it can't of a view that is traced.
    with torch.enable_grad():
        slope: Tensor = module(t, y.detach().requires_grad_())
        return slope.detach()


def _pull(
    module: nn.Module, t: Tensor, y: Tensor, cotangent: Tensor, leaves: Sequence[Tensor], dim: int | None
) -> Sequence[Tensor | None]:
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        slope = module(t, leaf)
        if dim is not None:
            slope = slope.narrow(dim, 0, cotangent.shape[dim])
        return torch.autograd.grad(slope, [leaf, *leaves], cotangent, allow_unused=True)


def _take_first_parts(graph: fx.Graph) -> None:
    """Where autograd starts from the first part of a concatenation, let it start from what that part is a copy of.

    It would pull zeros back to the other parts, and through all that they are made of.
    """
    for node in graph.find_nodes(op="call_method", target="narrow"):
        if len(node.args) != 4 or any(user.target is not torch.autograd.grad for user in node.users):
            continue
        joined, dim, start, _ = cast(Any, node.args)
        # What else uses it may change it in place.
        if not isinstance(joined, fx.Node) or joined.target not in _CONCATENATIONS or len(joined.users) > 1:
            continue
        part = joined.args[0][0] if joined.args and start == 0 else None  # type: ignore[index]
        if not isinstance(part, fx.Node):
            continue
        found, wanted = (x.meta["example_value"] for x in (part, node))
        # Where numbers are symbols, torch guards what this finds.
        along = int(dim.meta["example_value"] if isinstance(dim, fx.Node) else dim)
        alike = found.dtype == wanted.dtype and found.dim() == wanted.dim()
        if alike and bool(found.shape[along] == wanted.shape[along]):
            node.replace_all_uses_with(part)
            graph.erase_node(node)
