"""The vector fields that a spec may name."""

from __future__ import annotations

import inspect
from typing import Any

from fastapi import APIRouter

from symadj.api.schemas.service import FieldList, FieldRead
from symadj.service.contract.spec.flow import BuiltInField
from symadj.service.contract.spec.section import Section, kinds_of
from symadj.service.plugins import offered_fields

router = APIRouter(prefix="/fields", tags=["fields"])


@router.get("")
def list_fields() -> FieldList:
    """List the vector fields of symadj and of the packages that are installed with it; none of them is imported."""
    own = [_built_in(kind, section) for kind, section in kinds_of(BuiltInField).items()]
    plugins = [FieldRead(kind="plugin", **vars(field)) for field in offered_fields()]
    return FieldList(items=own + plugins)


def _built_in(kind: str, section: type[Section]) -> FieldRead:
    schema: dict[str, Any] = section.model_json_schema()
    del schema["properties"]["kind"]
    if "kind" in schema.get("required", ()):
        schema["required"].remove("kind")
    description = inspect.cleandoc(section.__doc__ or "")
    return FieldRead(kind=kind, name=None, package=None, description=description, options=schema, problem=None)
