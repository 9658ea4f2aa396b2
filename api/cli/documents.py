"""Specs as people write them: YAML or JSON, changed on the way by ``field.field=value``."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

__all__ = ["RowSettings", "Settings", "SpecFile", "csv_fields", "read_spec", "set_fields"]

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A job spec, YAML or JSON; - reads standard input.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change the spec, e.g. --set gradient.kind=backprop"),
]

RowSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Say how a csv file is written, as in a spec: --set 'data.csv.delimiter=;' --set data.header=false",
    ),
]


def read_spec(path: Path) -> dict[str, Any]:
    """Return a spec from a file, or from standard input (``-``).

    Raises:
        typer.BadParameter: the file does not exist, or its content can't be a spec.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        document = _load(text)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="SPEC") from error
    except RepeatedKeyError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="SPEC") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is neither YAML nor JSON: {error}", param_hint="SPEC") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{path} holds no mapping of fields", param_hint="SPEC")
    if {"id", "state", "spec"} <= document.keys():
        raise typer.BadParameter(
            f"{path} holds a job and not a spec: `symadj clone {document['id']}` submits its spec again, and in the "
            "field `spec` it stands by itself",
            param_hint="SPEC",
        )
    _check_json(document, "SPEC")
    return document


def set_fields(document: dict[str, Any], settings: list[str] | None) -> None:
    """Apply ``a.b=value`` (values in YAML) to a spec, in order. Another ``kind`` drops the fields of the kind before.

    Raises:
        typer.BadParameter: a setting is not of that form, a field is set twice, or a setting would undo one before it.
            Whether the spec has such fields is for the API to say.
    """
    before: dict[str, tuple[str, Any]] = {}
    for setting in settings or []:
        path, value = _read_setting(setting)
        if path in before:
            raise typer.BadParameter(f"{path} is set twice, by {before[path][0]!r} and {setting!r}", param_hint="--set")
        _set_field(document, path, copy.deepcopy(value))
        for other, (earlier, wanted) in before.items():
            if not _holds(document, other.split("."), wanted):
                raise typer.BadParameter(
                    f"{setting!r} would undo {earlier!r}, which stands before it: give {setting!r} first, or one of "
                    "them alone",
                    param_hint="--set",
                )
        before[path] = setting, value


def csv_fields(settings: list[str] | None) -> dict[str, Any]:
    """Return what settings of `data.csv` and `data.header` say of a csv file that is sent, by the fields' own names.

    Raises:
        typer.BadParameter: a setting is about something else. Whether there are such fields is for the API to say.
    """
    document: dict[str, Any] = {"data": {"csv": {}}}
    set_fields(document, settings)
    data = document["data"]
    if document.keys() != {"data"} or not isinstance(data, dict) or not {*data} <= {"csv", "header"}:
        raise typer.BadParameter(
            "of a file that is sent, data.header and the fields of data.csv can be set", param_hint="--set"
        )
    fields: dict[str, Any] = data.pop("csv")
    return data | fields


def _check_json(document: Any, where: str) -> None:
    """Refuse what YAML has and JSON does not: dates, infinities, binaries, keys that are not strings, cycles."""
    try:
        json.dumps(document, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        hint = "quote dates and other text that YAML reads as something else"
        raise typer.BadParameter(f"can't be written as JSON: {error}; {hint}", param_hint=where) from error


class RepeatedKeyError(yaml.YAMLError):
    """A key stands twice in a mapping."""


class _Loader(yaml.SafeLoader):
    """YAML's safe reader, but that a key which stands twice is an error, as YAML says, and not dropped."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, since `<<` puts more keys into the node later, which those that stand in it may well replace.
        node = super().compose_mapping_node(anchor)
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no key that JSON has
            name = self._name_in_json(key)
            if name in seen:
                first, second = seen[name].start_mark, key.start_mark
                hint = ": write <<: [*a, *b] for several" if name == "<<" else ": keep one of them"
                raise RepeatedKeyError(
                    f"{name!r} stands twice in one mapping, in line {first.line + 1} (column {first.column + 1}) and "
                    f"line {second.line + 1} (column {second.column + 1}){hint}"
                )
            seen[name] = key
        return node

    def _name_in_json(self, key: yaml.ScalarNode) -> str:
        """Return the key that JSON has in the place of a number's, say: 1, 0x1 and "1" are one there."""
        if key.tag in {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}:
            return str(key.value)
        value = self.construct_object(key)
        return value if isinstance(value, str) else json.dumps(value, default=str)


def _load(text: str) -> Any:
    """Read YAML or JSON.

    Raises:
        yaml.YAMLError: it is neither, or a key stands twice.
    """
    return yaml.load(text, _Loader)


def _holds(document: Any, path: Sequence[str], wanted: Any) -> bool:
    """Return whether all that was set at a path is still there; beside the fields of a section others may be set."""
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return False
        document = document[name]
    if isinstance(wanted, dict) and isinstance(document, dict):
        return all(_holds(document, [name], inner) for name, inner in wanted.items())
    return bool(document == wanted)


def _read_setting(setting: str) -> tuple[str, Any]:
    path, equals, text = setting.partition("=")
    if not equals or not all(path.split(".")):
        raise typer.BadParameter(f"{setting!r} is not of the form field.field=value", param_hint="--set")
    try:
        value = _load(text)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{setting!r}: {error}", param_hint="--set") from error
    _check_json(value, "--set")
    return path, value


def _set_field(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if document.get(name) is None:  # null: a part that is left out
            document[name] = {}
        inner = document[name]
        if not isinstance(inner, dict):
            raise typer.BadParameter(f"{name!r} of {path!r} has no fields in this spec", param_hint="--set")
        document = inner
    if last == "kind" and document.get("kind") != value:
        document.clear()
    document[last] = value
