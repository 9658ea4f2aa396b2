"""Specs as people write them: YAML or JSON, changed on the way by ``field.field=value``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer
import yaml

__all__ = ["read_spec", "set_fields"]


def read_spec(path: Path) -> dict[str, Any]:
    """Return a spec from a file, or from standard input (``-``).

    Raises:
        typer.BadParameter: the file does not exist, or its content can't be a spec.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        document = yaml.safe_load(text)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="SPEC") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is neither YAML nor JSON: {error}", param_hint="SPEC") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{path} holds no mapping of fields", param_hint="SPEC")
    _check_json(document, "SPEC")
    return document


def set_fields(document: dict[str, Any], settings: list[str] | None) -> None:
    """Apply ``a.b=value`` (values in YAML) to a spec, in order. Another ``kind`` drops the fields of the kind before.

    Raises:
        typer.BadParameter: a setting is not of that form. Whether the spec has such fields is for the API to say.
    """
    for setting in settings or []:
        _set_field(document, setting)


def _check_json(document: Any, where: str) -> None:
    """Refuse what YAML has and JSON does not: dates, infinities, binaries, keys that are not strings, cycles."""
    try:
        json.dumps(document, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        hint = "quote dates and other text that YAML reads as something else"
        raise typer.BadParameter(f"can't be written as JSON: {error}; {hint}", param_hint=where) from error


def _set_field(document: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    if not equals or not all(path.split(".")):
        raise typer.BadParameter(f"{setting!r} is not of the form field.field=value", param_hint="--set")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{setting!r}: {error}", param_hint="--set") from error
    _check_json(value, "--set")
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
