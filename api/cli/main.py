"""The command line: ``symadj serve`` here, the commands of a client in the other modules."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]

from symadj import __version__
from symadj.api.children import ServeError
from symadj.api.cli import comparing, flow, inspecting, keys, render, running, showing, sweeps, uploads, webhooks
from symadj.api.cli.inspecting import InspectError
from symadj.api.cli.shared import AnyKeyFile, AnyUrl, console, errors
from symadj.api.cli.tables import TableError
from symadj.api.client import ApiProblemError, ApiUnreachableError, BadRequestError, DownloadError
from symadj.api.serve import serve
from symadj.service.settings import SettingsError

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train continuous normalizing flows as a service.")
app.add_typer(running.app)
app.add_typer(showing.app)
app.add_typer(comparing.app)
app.add_typer(sweeps.app, name="sweep")
app.add_typer(sweeps.lists)
app.add_typer(uploads.sends)
app.add_typer(uploads.app, name="uploads")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(webhooks.lists)
app.add_typer(flow.app)
app.add_typer(inspecting.app)
app.add_typer(keys.app, name="keys")
# Shells ask this program itself what a word may be.
completion_init()


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 cancelled."""
    try:
        app()
    except ApiProblemError as problem:
        errors.print(f"[red]{escape(problem.title)}[/red] (status {problem.status})")
        for pointer, detail in problem.errors or [("", problem.detail)]:
            errors.print(f"  {escape(pointer)}: {escape(detail)}" if pointer else f"  {escape(detail)}", soft_wrap=True)
        sys.exit(1)
    except (
        *(ApiUnreachableError, BadRequestError, DownloadError),
        *(InspectError, ServeError, SettingsError, TableError),
    ) as error:
        errors.print(f"[red]symadj:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"symadj {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    _url: AnyUrl = None,
    _key_file: AnyKeyFile = None,
) -> None: ...


class Shell(StrEnum):
    """A shell whose words can be completed."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command("completion")
def completion(shell: Annotated[Shell, typer.Argument(help="Of which the script is.")]) -> None:
    """Print a script that completes commands, options and ids of jobs: eval "$(symadj completion bash)"."""
    print(get_completion_script(prog_name="symadj", complete_var="_SYMADJ_COMPLETE", shell=shell))


@app.command("serve")
def serve_command(
    host: Annotated[str, typer.Option(help="Address on which the API listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0: a free one.")] = 8000,
    data: Annotated[Path, typer.Option(help="Folder of the store, the jobs' files and the logs.")] = Path(
        "symadj-data"
    ),
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs for workers; default: all.")] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="SYMADJ_RAY_ADDRESS", help="URL of the Jobs API of a Ray cluster to use, instead of starting one."
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without asking for API keys.")
    ] = False,
) -> None:
    """Run the whole service on this machine, in the foreground: API, dispatcher, a local Ray, SQLite."""
    if ray_address is not None and cpus is not None:
        raise typer.BadParameter("the cluster of --ray-address has the CPUs that it has", param_hint="--cpus")

    def announce(url: str, folder: Path, keys: bool) -> None:
        console.print(render.ready_banner(url, folder, __version__, keys=keys), soft_wrap=True)

    parts = "API, dispatcher" if ray_address else "Ray, API, dispatcher"
    console.print(f"symadj {__version__} is starting ({parts}) ...")
    address = ray_address and ray_address.rstrip("/")
    serve(host, port, data, cpus=cpus, ray_address=address, insecure=insecure, announce=announce)
    console.print("symadj stopped.")
