"""Temporary replacement of a module's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn


@contextmanager
def substituted(modules: Sequence[nn.Module], aliases: Mapping[int, Tensor]) -> Iterator[None]:
    """Put `aliases` in the places of parameters, and copies in the places of all buffers.

    A field that is evaluated once more must not update its running statistics once more. Two threads must
    not do this to the same module at once, since the module itself is changed.

    Args:
        modules: where to look, with all modules within.
        aliases: what to put there, by the id of the parameter.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in (m for root in modules for m in root.modules()):
            places: list[tuple[dict[str, Any], str, Tensor | None]]
            places = [(module._parameters, name, aliases.get(id(p))) for name, p in module._parameters.items()]
            places += [(module._buffers, name, b.clone()) for name, b in module._buffers.items() if b is not None]
            for holder, name, other in places:
                if other is not None:
                    replaced.append((holder, name, holder[name]))
                    holder[name] = other
        yield
    finally:
        for holder, name, tensor in reversed(replaced):
            holder[name] = tensor


class _Constant(NamedTuple):
    holder: dict[str, Any]
    name: str
    tensor: Tensor
    version: int


class Constants:
    """The parts of modules that must not change between forward and backward: frozen parameters, buffers, modes.

    Parameters that get a gradient are not among them: autograd checks those. Buffers that the field itself
    changes at each use (counters, running statistics) are left out, once `settle` has seen it.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        inner = [m for root in modules for m in root.modules()]
        self._modes = [(module, module.training) for module in inner]
        self._tensors: list[_Constant] = []
        for module in inner:
            for holder in (module._parameters, module._buffers):
                for name, tensor in holder.items():
                    if tensor is not None and not tensor.requires_grad and not tensor.is_inference():
                        self._tensors.append(_Constant(holder, name, tensor, tensor._version))

    def settle(self) -> None:
        """Called after the forward solve: what has changed by then is not constant."""
        self._tensors = [x for x in self._tensors if _unchanged(x)]

    def check(self) -> None:
        """Called before the backward sweep.

        Raises:
            RuntimeError: something has changed since.
        """
        names = [x.name for x in self._tensors if not _unchanged(x)]
        if names:
            raise RuntimeError(
                f"the field's {', '.join(names[:3])} changed between the forward solve and backward, which evaluates "
                "the field again: call backward first, or use the gradient 'backprop'"
            )
        switched = [type(module).__name__ for module, training in self._modes if module.training is not training]
        if switched:
            raise RuntimeError(
                f"the field's {switched[0]} was switched between train() and eval() between the forward solve and "
                "backward, which evaluates the field again: call backward first, or use the gradient 'backprop'"
            )


def _unchanged(constant: _Constant) -> bool:
    holder, name, tensor, version = constant
    return holder.get(name) is tensor and tensor._version == version
