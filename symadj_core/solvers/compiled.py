"""A user's field and its vector-Jacobian product, each as one function that torch.compile has made.

`field.compile()`, torch's own call, asks for it. A field that takes a divergence by autograd is then differentiated
twice, which torch.compile refuses for what it has made of the field alone. The symplectic sweep asks for less: a whole
vector-Jacobian product, which torch traces with the calls of `torch.autograd.grad` within, and which needs no graph.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SETTINGS = {
    "trace_autograd_ops": True,
    # Fields count their uses, and each number would be compiled for itself.
    "allow_unspec_int_on_nn_module": True,
    # All fields of a process share the two functions below.
    "recompile_limit": 64,
}
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
        asked = original is not field or owner._compiled_call_impl is not None or hasattr(owner, "_orig_mod")
        return cls(original, owner) if asked else None

    def plain(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y) as if nothing was compiled; with a graph in grad mode."""
        with torch.compiler.set_stance("force_eager"):
            slope: Tensor = self._module(t, y)
            return slope

    def rest(self) -> None:
        """Do without torch.compile in this solve."""
        self._rests = True

    def slope(self, t: Tensor, y: Tensor) -> Tensor | None:
        """f(t, y) without a graph; None if torch.compile does not take it, which is said once."""
        # Of what inference mode has made, no derivative may be taken within the field.
        slope: Tensor | None = None if y.is_inference() else self._run(_slope, t, y)
        return slope

    def pull(self, t: Tensor, y: Tensor, cotangent: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None] | None:
        """The cotangent of f pulled back to y and to leaves that f uses; likewise."""
        grads: list[Tensor | None] | None = self._run(_pull, t, y, cotangent, tuple(leaves))
        return grads

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._rests or self._owner in _REFUSED:
            return None
        try:
            with torch._dynamo.config.patch(_SETTINGS):
                return compiled(function)(self._module, *arguments)
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


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function by way of torch.compile, as one graph: of the first shapes alone, and of any once others come."""
    return torch.compile(function, fullgraph=True)


def _slope(module: nn.Module, t: Tensor, y: Tensor) -> Tensor:
    # A field that takes its divergence makes its state require grad, which it can't of a view that is traced.
    with torch.enable_grad():
        slope: Tensor = module(t, y.detach().requires_grad_())
        return slope.detach()


def _pull(
    module: nn.Module, t: Tensor, y: Tensor, cotangent: Tensor, leaves: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        return torch.autograd.grad(module(t, leaf), [leaf, *leaves], cotangent, allow_unused=True)
