"""The vector fields that installed packages offer, known and checked without importing any of the packages.

A package names its fields in the entry points of the group ``symadj.fields``, and has a JSON schema of the options of
each beside its ``__init__.py``, in ``NAME.schema.json``. What a spec names is looked up among these and nowhere else.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.protocols import Validator
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.flow import CnfFlow, PluginField
from symadj.service.errors import InvalidSpecError

__all__ = ["GROUP", "OfferedField", "offered_fields", "resolved"]

GROUP = "symadj.fields"
_FIELD = "/flow/field"
# Of a validator's sentence, which has the value in it that the user sent.
_LONGEST_REASON = 500
_NO_OPTIONS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class OfferedField:
    """A field that an installed package offers.

    Attributes:
        name: in a spec.
        package: NAME==VERSION.
        description: what the package says of itself.
        options: JSON schema of the options; of a package without one, that there are none.
        problem: why the field can't be used, None if it can.
    """

    name: str
    package: str
    description: str
    options: Mapping[str, Any]
    problem: str | None = None


def offered_fields() -> list[OfferedField]:
    """Return the fields that are installed here, in the order of their names."""
    found = [_offered(point) for point in entry_points(group=GROUP)]
    return sorted(found, key=lambda field: (field.name, field.package))


def resolved(spec: JobSpec) -> JobSpec:
    """Return the spec with the release of its field's package and the defaults of its options written out.

    A spec whose field is not of a package is returned as it is.

    Raises:
        InvalidSpecError: no package that is installed here offers the field, or not in the version asked for, or
            several do; or its options are not what the package takes.
    """
    if not isinstance(spec.flow, CnfFlow) or not isinstance(spec.flow.field, PluginField):
        return spec
    asked = spec.flow.field
    offer = _chosen(asked, offered_fields())
    options = _usual(offer.options) | asked.options
    _check_options(offer, options)
    field = asked.model_copy(update={"package": offer.package, "options": options})
    return spec.model_copy(update={"flow": spec.flow.model_copy(update={"field": field})})


def _chosen(asked: PluginField, offered: list[OfferedField]) -> OfferedField:
    named = [field for field in offered if field.name == asked.name]
    packages = " and ".join(field.package for field in named)
    if not named:
        there = ", ".join(f"{field.name} ({field.package})" for field in offered) or "none"
        raise InvalidSpecError(
            f"no installed package offers a field {asked.name!r}; installed are: {there}. A package is installed where "
            "the service and its workers run; a request can't bring one",
            pointer=f"{_FIELD}/name",
        )
    if asked.package is not None:
        named = [field for field in named if field.package == asked.package]
        if not named:
            raise InvalidSpecError(
                f"the field {asked.name!r} is asked for in {asked.package}, and what is installed is {packages}: take "
                "that (or leave `package` out), or have the other installed",
                pointer=f"{_FIELD}/package",
            )
    if len(named) > 1:
        raise InvalidSpecError(
            f"the field {asked.name!r} is offered by {packages}: say which by `package`", pointer=f"{_FIELD}/package"
        )
    (offer,) = named
    if offer.problem is not None:
        raise _unusable(offer, offer.problem)
    return offer


def _unusable(offer: OfferedField, problem: str) -> InvalidSpecError:
    return InvalidSpecError(
        f"the field {offer.name!r} of {offer.package} can't be used: {problem}", pointer=f"{_FIELD}/name"
    )


def _usual(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that a schema has for its properties."""
    # A schema may also be true or false.
    described = {name: about for name, about in schema.get("properties", {}).items() if isinstance(about, dict)}
    return {name: about["default"] for name, about in described.items() if "default" in about}


def _check_options(offer: OfferedField, options: dict[str, Any]) -> None:
    try:
        wrong = sorted(_validator(offer.options).iter_errors(options), key=lambda error: list(map(str, error.path)))
    except Unresolvable as error:
        raise _unusable(offer, f"its schema of the options refers to {error.ref}, which it does not have") from error
    if wrong:
        place = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in wrong[0].path)
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InvalidSpecError(
            f"{offer.package} refuses the options of {offer.name!r}: {wrong[0].message[:_LONGEST_REASON]}{more}",
            pointer=f"{_FIELD}/options{place}",
        )


def _validator(schema: Mapping[str, Any]) -> Validator:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    # A schema that refers to others by URL gets none fetched.
    made: Validator = kind(schema, registry=EMPTY_REGISTRY)
    return made


def _offered(point: EntryPoint) -> OfferedField:
    assert point.dist is not None  # of an entry point that was found among the installed
    package = f"{point.dist.name}=={point.dist.version}"
    description = str(point.dist.metadata.json.get("summary", ""))
    try:
        return OfferedField(point.name, package, description, _schema(point))
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        problem = f"its schema of the options is not usable: {str(error)[:_LONGEST_REASON]}"
        return OfferedField(point.name, package, description, _NO_OPTIONS, problem)


def _schema(point: EntryPoint) -> Mapping[str, Any]:
    # A package of the top level is found without being imported; one within another would have that imported.
    found = importlib.util.find_spec(point.module.partition(".")[0])
    folders = [] if found is None else found.submodule_search_locations or []
    for folder in folders:
        file = Path(folder) / f"{point.name}.schema.json"
        if file.is_file():
            schema = json.loads(file.read_bytes())
            if not isinstance(schema, dict):
                raise ValueError(f"{file.name} is not a JSON object")
            _validator(schema)
            return schema
    return _NO_OPTIONS
