"""Text and JSON as every database takes them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

__all__ = ["LONGEST_MESSAGE", "Details", "Message", "storable_details"]

LONGEST_MESSAGE = 20_000  # characters
_CUT = " ... (cut)"


def _storable(value: Any) -> Any:
    """Return JSON that every database takes: a library's message may hold a NUL or half a character."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def storable_details(value: Any) -> Any:
    """Return JSON that every database takes.

    Raises:
        ValueError: it is nested too deeply.
    """
    try:
        return _storable(value)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply to be stored") from None


def _cut(text: str) -> str:
    """Return what of a text has room in a record: a library's message may be of any length."""
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - len(_CUT)]}{_CUT}"


Message = Annotated[str, BeforeValidator(_storable), AfterValidator(_cut)]
Details = Annotated[dict[str, Any], BeforeValidator(storable_details)]
