"""A user's state as one tensor: a tensor, or tuples, lists and dicts of tensors, one within another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

State = Any  # a tensor, or tuples, lists and dicts of tensors


class StateForm:
    """How a state lies in one tensor: as it is, or all its tensors flattened, one behind the other.

    Args:
        y0: the state at the start. Named tuples stay named tuples.

    Raises:
        TypeError: something in it is not a tensor.
        ValueError: it holds no tensor at all.
    """

    def __init__(self, y0: State) -> None:
        self.is_tensor = isinstance(y0, Tensor)
        self._like = y0
        if self.is_tensor:
            return
        for place, leaf in _leaves(y0, "y0"):
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"{place} is a {_kind(leaf)}, not a tensor: pass torch.as_tensor(...), in the dtype in which the "
                    "field computes; a state is a tensor, or tuples, lists and dicts of tensors"
                )
        self.shapes = [leaf.shape for _, leaf in _leaves(y0, "y0")]
        if not self.shapes:
            raise ValueError("y0 is empty: a state is a tensor, or tuples, lists and dicts of tensors")
        # The state's form alone: its tensors must not be held for as long as the field.
        self._like = _built(y0, iter([None] * len(self.shapes)))

    def joined(self, y: State, what: str = "the field returned") -> Tensor:
        """A state, or what the field returned for one, as one tensor.

        Raises:
            TypeError, ValueError: it is not of this form; the message begins with `what`.
        """
        if self.is_tensor:
            if not isinstance(y, Tensor):
                raise TypeError(f"{what} a {_kind(y)} for a state that is a tensor")
            return y
        leaves = list(_matched(y, self._like, what, "y"))
        for (place, leaf), shape in zip(leaves, self.shapes, strict=True):
            if not isinstance(leaf, Tensor):
                raise TypeError(f"{what} a {_kind(leaf)} for {place}, not a tensor of shape {list(shape)}")
            if leaf.numel() != shape.numel():
                raise ValueError(
                    f"{what} a tensor of shape {list(leaf.shape)} for {place}, whose shape is {list(shape)}"
                )
        return torch.cat([leaf.reshape(-1) for _, leaf in leaves])

    def split(self, joined: Tensor) -> State:
        """[..., total] -> the state, each of its tensors [..., *shape]."""
        return joined if self.is_tensor else _built(self._like, iter(self.parts(joined)))

    def parts(self, joined: Tensor) -> tuple[Tensor, ...]:
        """[..., total] -> the state's tensors, [..., *shape]."""
        if self.is_tensor:
            return (joined,)
        pieces = torch.split(joined, [shape.numel() for shape in self.shapes], dim=-1)
        return tuple(x.reshape((*joined.shape[:-1], *s)) for x, s in zip(pieces, self.shapes, strict=True))

    def at(self, states: State, n: int) -> State:
        """Of states over time, each tensor [T, *shape], those at index n."""
        if self.is_tensor:
            return states[n]
        return _built(self._like, iter([leaf[n] for _, leaf in _matched(states, self._like, "the solution is", "y")]))

    @property
    def top(self) -> int:
        """How many parts a flat tuple or list has; 0 for any other form."""
        flat = isinstance(self._like, tuple | list) and all(part is None for part in self._like)
        return len(self._like) if flat else 0


def _leaves(y: State, place: str) -> Iterator[tuple[str, Any]]:
    """All that is neither tuple, list nor dict, with its place."""
    if isinstance(y, dict):
        for key, part in y.items():
            yield from _leaves(part, f"{place}[{key!r}]")
    elif isinstance(y, tuple | list):
        for n, part in enumerate(y):
            yield from _leaves(part, f"{place}[{n}]")
    else:
        yield place, y


def _matched(y: State, like: State, what: str, place: str) -> Iterator[tuple[str, Any]]:
    """The parts of y in the order in which they are in `like`; tuples and lists stand for each other."""
    if isinstance(like, dict):
        if not isinstance(y, dict) or y.keys() != like.keys():
            keys = f"a dict of {', '.join(map(repr, y)) or 'nothing'}" if isinstance(y, dict) else f"a {_kind(y)}"
            raise TypeError(f"{what} {keys} for {place}, which is a dict of {', '.join(map(repr, like))}")
        for key, part in like.items():
            yield from _matched(y[key], part, what, f"{place}[{key!r}]")
    elif isinstance(like, tuple | list):
        if not isinstance(y, tuple | list) or len(y) != len(like):
            found = f"{len(y)} parts" if isinstance(y, tuple | list) else f"a {_kind(y)}"
            raise TypeError(f"{what} {found} for {place}, which is a {_kind(like)} of {len(like)}")
        for n, (part, form) in enumerate(zip(y, like, strict=True)):
            yield from _matched(part, form, what, f"{place}[{n}]")
    else:
        yield place, y


def _built(like: State, leaves: Iterator[Any]) -> State:
    """The form of `like` with other leaves, taken in order."""
    if isinstance(like, dict):
        return {key: _built(part, leaves) for key, part in like.items()}
    if isinstance(like, tuple | list):
        parts = [_built(part, leaves) for part in like]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    return next(leaves)


def _kind(x: Any) -> str:
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
