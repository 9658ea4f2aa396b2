"""Text and JSON as every database takes them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

__all__ = ["LONGEST_LINE", "LONGEST_MESSAGE", "Details", "LogText", "Message", "storable_details"]

LONGEST_MESSAGE = 20_000  # characters
LONGEST_LINE = 4000  # characters of one line of a log
_CUT = " ... (cut)"
# What a terminal would obey: colours and titles, and all other control characters but the tab.
_FOR_TERMINALS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]"
)


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


def _cut_to(longest: int) -> AfterValidator:
    """Cut a text to what has room in a record: a library's message may be of any length."""
    return AfterValidator(lambda text: text if len(text) <= longest else f"{text[: longest - len(_CUT)]}{_CUT}")


def _plain(value: Any) -> Any:
    return _storable(_FOR_TERMINALS.sub("", value)) if isinstance(value, str) else value


Message = Annotated[str, BeforeValidator(_storable), _cut_to(LONGEST_MESSAGE)]
LogText = Annotated[str, BeforeValidator(_plain), _cut_to(LONGEST_LINE)]
Details = Annotated[dict[str, Any], BeforeValidator(storable_details)]
