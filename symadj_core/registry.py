"""Things of one kind by name: solvers, controllers, gradients, fields, divergences, regularisers ..."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dict that answers an unknown name with the names that there are.

    Args:
        kind: what the entries are, as an error calls them.
        entries: by name.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: object) -> NoReturn:
        raise ValueError(f"unknown {self.kind} {name!r}: there are {', '.join(self)}")

    def find(self, given: str | T) -> T:
        """The entry of that name; anything but a name is returned as it is.

        Raises:
            ValueError: no such name.
        """
        return self[given] if isinstance(given, str) else given


class Classes(Registry[type[T]]):
    """A registry of classes, of which a name and options make an object."""

    def make(self, given: str | T, **options: Any) -> T:
        """The object of that name, made with these options; anything but a name is returned as it is.

        Raises:
            ValueError: no such name, or a value that it does not take.
            TypeError: it has no such option.
        """
        return self[given](**options) if isinstance(given, str) else given


def refuse_options(taker: str, unknown: Collection[str], parts: Mapping[str, Classes[Any]]) -> None:
    """Refuse options that ``taker`` does not have, and say which of its parts has the first of them.

    Args:
        taker: as an error calls it.
        unknown: names of options that it was given.
        parts: what it takes objects of, by the names of the options that take them.

    Raises:
        TypeError: there are any.
    """
    for name in unknown:
        for part, classes in parts.items():
            for made in classes.values():
                if name in inspect.signature(made).parameters:
                    raise TypeError(
                        f"{taker} has no option {name!r}, its {part} has: {part}={made.__name__}({name}=...)"
                    )
        raise TypeError(f"{taker} has no option {name!r}")
