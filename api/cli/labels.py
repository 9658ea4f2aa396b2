"""Labels as they are written on the command line."""

from __future__ import annotations

from collections.abc import Sequence

import typer

__all__ = ["changes_of_labels"]


def changes_of_labels(labels: Sequence[str]) -> dict[str, str | None]:
    """Return new values by name; None, of ``NAME=``, removes a label.

    Raises:
        typer.BadParameter: one is not of the form ``name=value``.
    """
    pairs = [text.partition("=") for text in labels]
    if wrong := [text for text, (_, equals, _) in zip(labels, pairs, strict=True) if not equals]:
        raise typer.BadParameter(f"{wrong[0]!r} is not of the form name=value", param_hint="NAME=VALUE...")
    return {name: value or None for name, _, value in pairs}
