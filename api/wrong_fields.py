"""What is wrong with a field, in words that say what it takes: for errors of pydantic that do not."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from symadj.service.contract.spec.section import kinds_of

__all__ = ["in_our_words"]


def in_our_words(error: Mapping[str, Any], model: Any) -> str:
    """Return the message of one of pydantic's errors, whose place is one within ``model``."""
    given, place, context = error.get("input"), error["loc"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown(str(place[-1]), _fields_at(model, place[:-1]))
        case "union_tag_invalid":
            return f"its kind is {context['tag']!r}: it must be one of {context['expected_tags']}"
        case "model_type" | "model_attributes_type" | "dict_type" if not isinstance(given, BaseModel):
            hint = (
                f": write {{kind: {given}}}" if isinstance(given, str) and given in kinds_of(_at(model, place)) else ""
            )
            return f"{given!r:.100} is given where fields with values are expected{hint}"
        case "string_type" if isinstance(given, int | float) and not isinstance(given, bool):
            quotes = f"put it in quotes, which a shell takes away: --set 'FIELD=\"{given}\"'"
            return f"{given} is given as a number and must be text: {quotes}"
    return str(error["msg"])


def _unknown(name: str, known: list[str]) -> str:
    if not known:
        return f"{name[:100]!r} is not a field of this"
    close = [field for field in known if name.lower() == _initials(field)] or difflib.get_close_matches(
        name, known, n=1
    )
    hint = f": did you mean {close[0]!r}? It has" if close else ", which has"
    return f"{name[:100]!r} is not a field of this{hint} {', '.join(known)}"


def _initials(field: str) -> str:
    """Return what people write for short: lr for learning_rate."""
    return "".join(word[0] for word in field.split("_") if word)


def _fields_at(model: Any, place: tuple[int | str, ...]) -> list[str]:
    found = _at(model, place)
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _at(model: Any, place: tuple[int | str, ...]) -> Any:
    """Return the annotation at a place, in which pydantic names the kind of each section that has one."""
    found = model
    for part in place:
        found = _without_none(found)
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            # The discriminator of a union is beside its annotation.
            found = None if field is None else field.annotation
        elif part in (kinds := kinds_of(found)):
            found = kinds[str(part)]
        else:
            found = next((inner for inner in get_args(found) if inner is not Ellipsis), None)
    return _without_none(found)


def _without_none(annotation: Any) -> Any:
    members = [member for member in get_args(annotation) if member is not type(None)]
    return members[0] if len(members) == 1 and type(None) in get_args(annotation) else annotation
