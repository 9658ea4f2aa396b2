"""``symadj keys``: API keys, made and revoked on a machine with the server's settings, without the API."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from symadj.api.cli.shared import AsJson, console, print_answer
from symadj.api.schemas.keys import KeyCreated, KeyList, KeyRead
from symadj.service.errors import SymadjError
from symadj.service.roles import NAME, Role
from symadj.service.settings import read_settings

if TYPE_CHECKING:
    from symadj.service.store import Database
    from symadj.service.store.tables import ApiKey

app = typer.Typer(
    no_args_is_help=True,
    help="API keys, in the store of the settings (SYMADJ_STORE_URL or SYMADJ_DATA, SYMADJ_KEY_SECRET).",
)


@contextmanager
def _store() -> Iterator[Database]:
    from symadj.service.store import Database

    database = Database(read_settings().resolved_store_url())
    try:
        database.migrate()  # the service may not have been started yet
        yield database
    finally:
        database.close()


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Owner of the jobs that it submits; keys of one name share them.")],
    role: Annotated[Role, typer.Option(help="admin: everything; submitter: their own jobs; viewer: reads all.")],
    expires_days: Annotated[int | None, typer.Option(min=1, max=3650, help="Default: it does not expire.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    from symadj.service import keys

    if re.fullmatch(NAME, name) is None:
        raise typer.BadParameter(
            f"{name!r} is not a name: 1 to 100 letters, digits and . _ @ + -, a letter or digit first",
            param_hint="NAME",
        )
    secret = read_settings().required_key_secret()
    expires_in = timedelta(days=expires_days) if expires_days is not None else None
    with _store() as store, store.session() as session:
        row, key = keys.create(session, secret, name=name, role=role, expires_in=expires_in)
    print(f"key {row.id} of {name}, {role}: shown this once", file=sys.stderr)
    made = KeyCreated(**dict(KeyRead.model_validate(row)), key=key)
    print_answer(made, [Text(key)], as_json)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, the newest first, without their secret part."""
    from symadj.service.store import keys

    with _store() as store, store.read_session() as session:
        rows = keys.every(session)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("key", "name", "role", "state", "created", "last used"):
        table.add_column(heading, no_wrap=heading == "key")
    for row in rows:
        used = _day(row.last_used_at) if row.last_used_at else "never"
        table.add_row(row.id, escape(row.name), row.role, _state(row), _day(row.created_at), used)
    print_answer(KeyList(items=[KeyRead.model_validate(row) for row in rows]), [table], as_json)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `symadj keys list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key: it is refused from now on. Its jobs stay and continue to run."""
    from symadj.service import keys

    try:
        with _store() as store, store.session() as session:
            row = keys.revoke(session, key)
    except SymadjError as error:
        raise typer.BadParameter(f"{error}; `symadj keys list` shows them", param_hint="KEY") from error
    print_answer(KeyRead.model_validate(row), [Text(f"{row.id}, of {row.name}: revoked")], as_json)


@app.command()
def bootstrap(
    file: Annotated[Path, typer.Option(help="Where to write it; its owner alone can read it.")],
) -> None:
    """Make the first admin key and write it to a file. Where a usable admin key exists, do nothing."""
    from symadj.service import keys

    secret = read_settings().required_key_secret()
    try:
        with _store() as store, store.session() as session:
            made = keys.bootstrap(session, secret, file)
    except OSError as error:
        raise typer.BadParameter(f"{file} can't be written: {error.strerror}", param_hint="--file") from error
    console.print(f"The first admin key is in {file}." if made else "There is an admin key: nothing was done.")


def _state(row: ApiKey) -> str:
    if row.revoked_at is not None:
        return f"revoked {_day(row.revoked_at)}"
    if row.expires_at is None:
        return "valid"
    return f"{'expired' if row.expires_at <= datetime.now(UTC) else 'valid until'} {_day(row.expires_at)}"


def _day(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M}"
