"""What all commands have in common: where they print, arguments and options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from symadj.api.client import Client

__all__ = ["DEFAULT_URL", "AsJson", "JobId", "KeyFile", "Url", "connect", "console"]

# Where there is no terminal, nobody's columns need to be saved.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)

Url = Annotated[str, typer.Option("--url", envvar="SYMADJ_URL", help="The server.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        envvar="SYMADJ_API_KEY_FILE",
        help="A file with the API key, if the server asks for one; default: SYMADJ_API_KEY.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answers.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def connect(url: str, key_file: Path | None) -> Client:
    """Return a client of a server.

    Raises:
        typer.BadParameter: the file of the key can't be read.
    """
    if key_file is None:
        return Client(url)
    try:
        key = key_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{key_file} can't be read: {error}", param_hint="--api-key-file") from error
    if not key:
        raise typer.BadParameter(f"{key_file} is empty", param_hint="--api-key-file")
    return Client(url, api_key=key)
