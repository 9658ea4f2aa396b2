"""What all commands have in common: where they print, arguments and options."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["DEFAULT_URL", "AsJson", "JobId", "Url", "console"]

# Where there is no terminal, nobody's columns need to be saved.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)

Url = Annotated[str, typer.Option("--url", envvar="SYMADJ_URL", help="The server.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answers.")]
DEFAULT_URL = "http://127.0.0.1:8000"
