"""Where and why Python's reader gives up on text that is JSON by its grammar."""

from __future__ import annotations

import json
import sys
from typing import Any

from symadj.api.repeated_keys import escape

__all__ = ["place_and_reason"]

_TOO_LONG = object()


def place_and_reason(text: bytes) -> tuple[str, str] | None:
    """Return a JSON pointer and what is wrong there; None where the text is not JSON.

    The pointer of a document that is nested too deeply is that of all of it.
    """
    try:
        document = json.loads(text, parse_int=_whole)
    except RecursionError:
        return "", f"lists or objects are nested too deeply: about {sys.getrecursionlimit()} levels can be read"
    except ValueError:
        return None
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        pointer, value = waiting.pop()
        if value is _TOO_LONG:
            return pointer, f"a whole number has at most {sys.get_int_max_str_digits()} digits"
        if isinstance(value, dict):
            waiting += [(f"{pointer}/{escape(name)}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{pointer}/{place}", inner) for place, inner in enumerate(value)]
    return None


def _whole(digits: str) -> Any:
    try:
        return int(digits)
    except ValueError:
        return _TOO_LONG
