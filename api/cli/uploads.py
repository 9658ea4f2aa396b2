"""``symadj upload`` and ``symadj uploads``: files that are sent to be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from symadj.api.cli import render
from symadj.api.cli.results import print_parts, size
from symadj.api.cli.shared import AsJson, client_command, console, errors, print_answer
from symadj.api.client import ApiProblemError, Client

__all__ = ["app", "sends"]

_LIST = "list"


class _ListsByDefault(TyperGroup):
    """``symadj uploads`` is ``symadj uploads list``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in where none is named."""
        if not args or (args[0].startswith("-") and args[0] != "--help"):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ListsByDefault, help="Files that were sent to be trained on.")
sends = typer.Typer()


@client_command(sends)
def upload(
    client: Client,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="A file here, of a format that `data.kind: file` reads; it is sent."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="That it has there; default: its own.")] = None,
    look: Annotated[bool, typer.Option(help="Whether the server reads it at once, to say what is in it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Send a file to be trained on; print the path by which a spec names it, and on standard error what is in it."""
    sent = client.upload(file, name=name)
    if as_json:
        print_answer(sent, [], as_json)
        return
    print(sent.path, flush=True)
    if look:
        print_parts(errors, _what_is_in(client, sent.path))


def _what_is_in(client: Client, path: str) -> list[RenderableType]:
    """Return what a job that names a file, and says nothing else, would read of it."""
    try:
        found = client.validate({"data": {"kind": "file", "path": path}})
    except ApiProblemError as problem:  # as where the queue is full: the file is there all the same
        return [Text(f"It was not looked at: {problem.detail}")]
    about = [item for item in found.findings if item.pointer.startswith("/data") or not item.pointer]
    return render.read_data([found.data] if found.data else [], about)


@client_command(app, _LIST)
def list_uploads(
    client: Client,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List uploads, newest first, with the paths by which specs name them."""
    page = client.uploads(limit=limit)
    table = Table(box=None, pad_edge=False)
    for heading in ("upload", "path", "format", "size", "owner", "created"):
        table.add_column(heading, overflow="fold")
    for item in page.items:
        created = f"{item.created_at:%Y-%m-%d %H:%M}"
        table.add_row(*map(escape, [item.id, item.path, item.format, size(item.bytes), item.owner, created]))
    more = [Text(f"(the newest {limit}; --limit shows more)")] if page.has_more else []
    print_answer(page, [table, *more], as_json)


@client_command(app)
def delete(client: Client, upload: Annotated[str, typer.Argument(metavar="UPLOAD", help="An upload's id.")]) -> None:
    """Delete an upload that nothing needs any more."""
    client.delete_upload(upload)
    console.print(f"{upload}: deleted")
