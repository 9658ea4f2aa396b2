"""The building blocks of a job spec: strict sections, unions distinguished by `kind`, sizes with a unit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from annotated_types import Ge, Le
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

# The context in which a spec is read that was accepted before, perhaps by an earlier version with wider bounds.
STORED = "stored"

# What no database and no answer takes alike: control characters, and halves of characters (surrogates).
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# A tab by itself separates the values of a csv file, and is safe everywhere.
_DELIMITER = "\t"

Place = tuple[str | int, ...]


class Section(BaseModel):
    """Base of every part of a spec: unknown fields are refused, values are fixed once read.

    No string of a spec, name of a field or key has a control character or half a character, so that whatever is
    accepted can be stored, found and shown with every database.

    A spec that was accepted before (``context=STORED``) stays readable when bounds become tighter: its strings are
    taken as they are, and a number beyond today's bounds counts as the bound.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_kindly(cls, values: Any, info: ValidationInfo) -> Any:
        """Fill in the default ``kind`` where there is none; refuse unfit text, and flags and numbers for each other.

        Pydantic takes ``true`` for 1, and 1, ``"on"`` and ``"yes"`` for ``true``. Text for a number it may take: YAML
        reads ``1e-4`` as text.
        """
        if not isinstance(values, dict):
            return values
        read = dict(values)
        if info.context != STORED:
            cls._refuse_unfit_text(values)
        for name, field in cls.model_fields.items():
            value = values.get(name)
            for place, flag in _flags(value, (name,)):
                if not _takes(field.annotation, bool):
                    raise at(cls, place, f"{place[-1]} is {str(flag).lower()}, which it can't be", flag)
            if field.annotation is bool and name in values and not isinstance(value, bool) and info.context != STORED:
                raise at(cls, (name,), f"{name} is {value!r:.50}, which it can't be: write true or false", value)
            if info.context == STORED:
                read |= {name: _within_bounds(value, field)} if name in values else {}
            if not isinstance(value, dict) or "kind" in value:
                continue
            if kinds := kinds_of(field.annotation):
                usual = [kind for kind, section in kinds.items() if not section.model_fields["kind"].is_required()]
                if not usual:
                    raise at(cls, (name,), f"{name}.kind is missing: one of {', '.join(map(repr, kinds))}", value)
                read[name] = {"kind": usual[0], **value}
        return read

    @classmethod
    def _refuse_unfit_text(cls, values: dict[str, Any]) -> None:
        for place, text in _texts(values):
            found = _UNFIT.search(text)
            if found is None or text == _DELIMITER:
                continue
            what = f"U+{ord(found[0]):04X} at character {found.start() + 1}"
            raise at(
                cls,
                place,
                f"{text[:50]!r} has {what}: text has no control characters and no halves of characters (surrogates)",
                text,
            )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Leave ``discriminator`` out where the ``kind`` may be left out: OpenAPI has it for required fields alone.

        Without a ``kind``, several sections may fit: the schema asks for one of them at least, not for one alone.
        """
        schema = handler(core_schema)
        for name, place in handler.resolve_ref_schema(schema).get("properties", {}).items():
            sections = kinds_of(cls.model_fields[name].annotation).values()
            usual = sum(not section.model_fields["kind"].is_required() for section in sections)
            if usual:
                place.pop("discriminator", None)
            if usual > 1 and "oneOf" in place:
                place["anyOf"] = place.pop("oneOf")
        return schema

    def arguments(self) -> dict[str, Any]:
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


def at(section: type[Section], place: Place, message: str, value: Any) -> ValidationError:
    """Return the error of a value at a place within a section, for a validator of the whole section to raise."""
    details = InitErrorDetails(type=misfit("", message), loc=place, input=value)
    return ValidationError.from_exception_data(section.__name__, [details])


def as_field(name: str) -> WrapValidator:
    """Return the validator of a whole spec that is the field ``name`` of a larger body: pointers begin there."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            details = []
            for found in error.errors(include_url=False):
                kind, context = found["type"], found.get("ctx", {})
                if kind == "misfit":
                    pointer = f"/{name}{context['pointer']}" if "pointer" in context else ""
                    details.append(
                        InitErrorDetails(
                            type=misfit(pointer, context["message"]), loc=found["loc"], input=found["input"]
                        )
                    )
                else:
                    details.append(InitErrorDetails(type=kind, loc=found["loc"], input=found["input"], ctx=context))
            raise ValidationError.from_exception_data(error.title, details) from None

    return WrapValidator(check)


def _texts(values: dict[Any, Any]) -> Iterator[tuple[Place, str]]:
    """Yield all strings within JSON values with their places, an object's keys at the place of the object."""
    waiting: list[tuple[Place, Any]] = [((), values)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            yield from ((place, key) for key in value if isinstance(key, str))
            waiting += [((*place, key), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*place, number), inner) for number, inner in enumerate(value)]


def _flags(value: Any, place: Place) -> Iterator[tuple[Place, bool]]:
    """Yield ``true`` or ``false``, if the value of a field is that, or those within it, if it is a list."""
    if isinstance(value, bool):
        yield place, value
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _flags(inner, (*place, number))


def _takes(annotation: Any, kind: type) -> bool:
    """Return whether a field of this annotation may be of a kind, by itself or as one of several."""
    return annotation is kind or any(_takes(member, kind) for member in get_args(annotation))


def _within_bounds(value: Any, field: FieldInfo) -> Any:
    """Return a number that was accepted before, brought within the bounds of today."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        for bound in field.metadata:
            if isinstance(bound, Ge):
                value = max(value, bound.ge)  # type: ignore[call-overload]
            elif isinstance(bound, Le):
                value = min(value, bound.le)  # type: ignore[call-overload]
    return value


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
    raise misfit("", f"{str(size)[:50]!r} is not a size with a unit: write 512MiB, 12GiB or 16GB")


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
