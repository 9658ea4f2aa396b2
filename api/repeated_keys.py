"""Keys that stand twice in an object of JSON: readers of JSON take the last one without a word."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

__all__ = ["escape", "repeated_keys"]


class _Repeating(dict[str, Any]):
    """An object of which some keys stand more than once."""

    repeated: dict[str, int]


def repeated_keys(text: bytes) -> dict[str, int]:
    """Return where keys stand more than once in JSON, as JSON pointers, and how often.

    Raises:
        ValueError: the text is not JSON.
    """
    found = False

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        read = dict(pairs)
        if len(read) == len(pairs):
            return read
        found = True
        marked = _Repeating(read)
        marked.repeated = {name: count for name, count in Counter(name for name, _ in pairs).items() if count > 1}
        return marked

    document = json.loads(text, object_pairs_hook=as_object)
    return _places(document) if found else {}


def _places(document: Any) -> dict[str, int]:
    places: dict[str, int] = {}
    waiting = [("", document)]
    while waiting:
        pointer, value = waiting.pop()
        if isinstance(value, _Repeating):
            places |= {f"{pointer}/{escape(name)}": count for name, count in value.repeated.items()}
        if isinstance(value, dict):
            waiting += [(f"{pointer}/{escape(name)}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{pointer}/{place}", inner) for place, inner in enumerate(value)]
    return places


def escape(name: str) -> str:
    """Return a key as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
