"""Documents made from a JSON schema, so that a new field takes part in the tests by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True)
class TextPlace:
    """A place for a string that is free to choose: how to name it, and how to make a document with a text there."""

    name: str
    document: Callable[[str], Any]


@dataclass(frozen=True)
class Documents:
    """Documents of a schema.

    Attributes:
        root: the document with the definitions that ``$ref`` points to.
        companions: fields that must stand beside a field of that name, where the schema does not say so.
    """

    root: Schema
    companions: dict[str, dict[str, Any]]

    def resolve(self, schema: Schema) -> Schema:
        """Return what a schema is, if it is a reference."""
        while "$ref" in schema:
            found: Any = self.root
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema

    def options(self, schema: Schema) -> list[Schema]:
        """Return the alternatives of a schema; itself, if it has none."""
        schema = self.resolve(schema)
        if "const" in schema or "enum" in schema:
            return [schema]
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return [option for member in schema[name] for option in self.options(member)]
        return [schema]

    def smallest(self, schema: Schema) -> Any:
        """Return a document with the required fields alone."""
        schema = self.options(schema)[0]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        match schema.get("type"):
            case "object":
                made = {name: self.smallest(schema["properties"][name]) for name in schema.get("required", ())}
                return made | {key: value for name in made for key, value in self._beside(name, schema).items()}
            case "array":
                return [self.smallest(schema["items"]) for _ in range(schema.get("minItems", 0))]
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return False
            case "null":
                return None
            case _:
                return "a"

    def texts(self, schema: Schema, name: str = "") -> Iterator[TextPlace]:
        """Yield all places of strings that are free to choose, keys of objects included."""
        for option in self.options(schema):
            match option.get("type"):
                case "string" if "enum" not in option and "const" not in option:
                    yield TextPlace(name, lambda text: text)
                case "array" if "items" in option:
                    for inner in self.texts(option["items"], f"{name}/0"):
                        yield TextPlace(inner.name, lambda text, inner=inner: [inner.document(text)])  # type: ignore[misc]
                case "object":
                    yield from self._of_object(option, name)

    def _beside(self, name: str, schema: Schema) -> dict[str, Any]:
        """Return what must stand beside a field in this object."""
        return {key: value for key, value in self.companions.get(name, {}).items() if key in schema["properties"]}

    def _of_object(self, schema: Schema, name: str) -> Iterator[TextPlace]:
        kind = schema.get("properties", {}).get("kind", {}).get("const")
        name += f"[{kind}]" if kind else ""
        for key, field in schema.get("properties", {}).items():
            for inner in self.texts(field, f"{name}/{key}"):

                def made(text: str, key: str = key, inner: TextPlace = inner) -> Any:
                    least = self.smallest(schema) | self._beside(key, schema)
                    return least | {key: inner.document(text)} | ({"kind": kind} if kind else {})

                yield TextPlace(inner.name, made)
        values = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        for field in values:
            if isinstance(field, dict):
                yield TextPlace(f"{name}/(key)", lambda text, field=field: {text: self.smallest(field)})  # type: ignore[misc]
                for inner in self.texts(field, f"{name}/a"):
                    yield TextPlace(inner.name, lambda text, inner=inner: {"a": inner.document(text)})  # type: ignore[misc]
