"""The building blocks of a job spec: strict sections, unions distinguished by `kind`, sizes with a unit."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """Base of every part of a spec: unknown fields are refused, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_kindly(cls, values: Any) -> Any:
        """Fill in the default ``kind`` where there is none, and refuse ``true`` as a number (Python takes it for 1)."""
        if not isinstance(values, dict):
            return values
        read = dict(values)
        for name, field in cls.model_fields.items():
            value = values.get(name)
            if isinstance(value, bool) and field.annotation is not bool:
                raise misfit("", f"{name} is {str(value).lower()}, which it can't be")
            if not isinstance(value, dict) or "kind" in value:
                continue
            if kinds := kinds_of(field.annotation):
                usual = [kind for kind, section in kinds.items() if not section.model_fields["kind"].is_required()]
                if not usual:
                    raise misfit("", f"{name}.kind is missing: one of {', '.join(map(repr, kinds))}")
                read[name] = {"kind": usual[0], **value}
        return read

    def options(self) -> dict[str, Any]:
        """Return the fields but ``kind``: the keyword arguments of the class that the kind names."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "kind"}


def kinds_of(union: Any) -> dict[str, type[Section]]:
    """Return the sections of a union by their ``kind``; empty for another annotation."""
    members = get_args(union)
    if members and get_args(members[0]):  # Annotated
        members = get_args(members[0])
    sections = [member for member in members if isinstance(member, type) and issubclass(member, Section)]
    return {get_args(s.model_fields["kind"].annotation)[0]: s for s in sections if "kind" in s.model_fields}


def misfit(pointer: str, message: str) -> PydanticCustomError:
    """Return an error with a message of ours; ``pointer`` (a JSON pointer from the top) is for one about two fields."""
    context = {"message": message} | ({"pointer": pointer} if pointer else {})
    return PydanticCustomError("misfit", "{message}", context)


def _format_bytes(size: int) -> str:
    """Return ``size`` in the largest binary unit that holds it exactly, e.g. ``"12GiB"``.

    Not by ``ByteSize.human_readable``, which rounds to a digit: a stored spec must read back as the same size.
    """
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def _with_unit(size: Any) -> Any:
    """Refuse a size without a unit (a size is a string in a spec, and a number once it is read)."""
    if isinstance(size, ByteSize) or (isinstance(size, str) and re.fullmatch(_MEMORY_SIZE, size.strip())):
        return size
    raise misfit("", f"{str(size)[:50]} is not a size with a unit: write 512MiB, 12GiB or 16GB")


_MEMORY_SIZE = r"\d{1,15}(\.\d{1,9})?\s*([KMGT]i?)?B"
MemorySize = Annotated[
    ByteSize,
    Field(ge=2**20, le=2**60),
    BeforeValidator(_with_unit),
    PlainSerializer(_format_bytes, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{_MEMORY_SIZE}$",
            "description": "Bytes with a unit, at least 1MiB: 512MiB, 12GiB, 16GB.",
            "examples": ["12GiB"],
        }
    ),
]
