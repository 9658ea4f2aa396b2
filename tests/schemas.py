"""Documents made from a JSON schema, so that a new field takes part in the tests by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
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
        limits: least and most of the random numbers of a field of that name, where more, or the default, would take too
            long.
        choices: random texts of a field of that name.
    """

    root: Schema
    companions: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    choices: dict[str, list[str]] = field(default_factory=dict)

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

    def random(self, schema: Schema, rng: Random, name: str = "") -> Any:
        """Return a document with values of all kinds and sizes; ``limits`` and ``choices`` hold for fields by name."""
        schema = {**self.resolve(schema), **{key: value for key, value in schema.items() if key != "$ref"}}
        if "default" in schema and name not in self.limits and rng.random() < 0.3:
            return schema["default"]
        schema = {**schema, **rng.choice(self.options(schema))}
        for fixed, values in (("const", [schema.get("const")]), ("enum", schema.get("enum", ()))):
            if fixed in schema:
                return rng.choice(values)
        if name in self.choices and schema.get("type") == "string":
            return rng.choice(self.choices[name])
        match schema.get("type"):
            case "object" if "properties" in schema:
                needed = {"kind", *schema.get("required", ()), *self.limits}
                chosen = [key for key in schema["properties"] if key in needed or rng.random() < 0.5]
                return {key: self.random(schema["properties"][key], rng, key) for key in chosen}
            case "array" if "prefixItems" in schema:
                return [self.random(item, rng, name) for item in schema["prefixItems"]]
            case "array":
                least = schema.get("minItems", 0)
                count = rng.randint(least, min(schema.get("maxItems", least + 3), least + 3))
                return [self.random(schema["items"], rng, name) for _ in range(count)]
            case "integer":
                return self._integer(schema, rng, name)
            case "number":
                return self._number(schema, rng, name)
            case "boolean":
                return rng.random() < 0.5
            case "string":
                return rng.choice(schema.get("examples", ["a"]))
            case "object":
                return {}
            case "null":
                return None
            case kind:
                raise AssertionError(f"{name}: the schema has the type {kind}, of which this makes no documents")

    def _integer(self, schema: Schema, rng: Random, name: str) -> int:
        low, high = self.limits.get(name, (0, 2**53))
        low = max(low, schema.get("minimum", low))
        high = min(high, schema.get("maximum", high), schema.get("exclusiveMaximum", high + 1) - 1)
        unit = schema.get("multipleOf", 1)
        drawn = rng.choice([low, high, rng.randint(low, high), rng.randint(low, min(high, low + 10))])
        return int(max(low, drawn // unit * unit))

    def _number(self, schema: Schema, rng: Random, name: str) -> float:
        low, high = self.limits.get(name, (5e-324, 1e300))
        low = max(low, schema.get("minimum", low), math.nextafter(schema.get("exclusiveMinimum", low), math.inf))
        high = min(high, schema.get("maximum", high), math.nextafter(schema.get("exclusiveMaximum", high), 0.0))
        if rng.random() < 0.1:
            return float(rng.choice([low, high]))
        usual = max(low, min(high, 1e-4)), min(high, max(low, 10.0))
        return math.exp(rng.uniform(math.log(usual[0]), math.log(usual[1])))

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
        for key, value in schema.get("properties", {}).items():
            for inner in self.texts(value, f"{name}/{key}"):

                def made(text: str, key: str = key, inner: TextPlace = inner) -> Any:
                    least = self.smallest(schema) | self._beside(key, schema)
                    return least | {key: inner.document(text)} | ({"kind": kind} if kind else {})

                yield TextPlace(inner.name, made)
        values = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
        for value in values:
            if isinstance(value, dict):
                yield TextPlace(f"{name}/(key)", lambda text, value=value: {text: self.smallest(value)})  # type: ignore[misc]
                for inner in self.texts(value, f"{name}/a"):
                    yield TextPlace(inner.name, lambda text, inner=inner: {"a": inner.document(text)})  # type: ignore[misc]
