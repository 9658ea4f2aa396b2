"""What all commands have in common: the client that they are given, where they print, arguments and options."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from symadj.api.cli.results import print_parts
from symadj.api.client import ApiProblemError, ApiUnreachableError, BadRequestError, Client
from symadj.service.contract.states import JobState

__all__ = [
    "AnyKeyFile",
    "AnyUrl",
    "AsJson",
    "JobId",
    "client_command",
    "console",
    "errors",
    "following",
    "job_ids",
    "print_answer",
    "progress_bars",
    "tell",
]

Command = Callable[..., None]
_T = TypeVar("_T")

_URL = "http://127.0.0.1:8000"
# For the jobs that a shell offers, and how many.
_COMPLETION_SECONDS, _COMPLETIONS = 2.0, 50

# Without a terminal, no columns need to be saved.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)

errors = Console(stderr=True, highlight=False)

_Url = Annotated[str, typer.Option("--url", envvar="SYMADJ_URL", help="The server.")]
_KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        envvar="SYMADJ_API_KEY_FILE",
        help="A file with the API key, if the server asks for one; default: SYMADJ_API_KEY.",
    ),
]
# Before the name of a command, where many programs take them.
AnyUrl = Annotated[str | None, typer.Option("--url", help="The server, of whichever command follows.")]
AnyKeyFile = Annotated[
    Path | None, typer.Option("--api-key-file", help="A file with the API key, for whichever command follows.")
]


def job_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return jobs whose ids begin like this, the newest first, with their names and states; none without a server.

    A shell asks for them while its user waits.
    """
    try:
        with _connect(ctx.params.get("url") or _URL, ctx.params.get("key_file"), timeout=_COMPLETION_SECONDS) as client:
            found = client.jobs(text=incomplete or None, limit=_COMPLETIONS).items
    except (ApiProblemError, ApiUnreachableError, BadRequestError, typer.BadParameter):
        return []
    return [(job.id, f"{job.name}, {job.state}") for job in found if job.id.startswith(incomplete)]


JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.", autocompletion=job_ids)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the whole answer, as JSON.")]


def print_answer(answer: BaseModel, parts: Sequence[RenderableType], as_json: bool) -> None:
    """Print an answer of the API as it is, or what people are shown of it."""
    if as_json:
        print(answer.model_dump_json(indent=2))
    else:
        print_parts(console, parts)


def tell(text: str) -> None:
    """Tell the user something that is no part of what was asked for."""
    print(text, file=sys.stderr)


@contextmanager
def following(client: Client, job_id: str) -> Iterator[None]:
    """Stay with a job until it has ended or the user leaves (Ctrl-C): an API that is away for a while ends nothing.

    That there is no such job, or no server, is reported at once; why nothing comes of one that does not run is told.
    """
    job = client.job(job_id)
    if job.state is JobState.QUEUED and job.waiting is not None:
        tell(f"{job_id} is queued. {job.waiting.reason}")
    elif job.state is JobState.PAUSED:
        tell(f"{job_id} is paused until `symadj resume {job_id}`")
    with suppress(KeyboardInterrupt), client.patience(tell):
        yield


def progress_bars(*columns: ProgressColumn) -> Progress:
    """Return bars on standard error, with more ``columns``; nothing is shown where that is no terminal."""
    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    return Progress(*shown, console=errors, transient=True, disable=not errors.is_terminal)


def _option(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_OPTIONS_OF_A_CLIENT = (
    _option("ctx", typer.Context),
    _option("url", _Url, _URL),
    _option("key_file", _KeyFile, None),
)


def _before(context: typer.Context, name: str, value: _T) -> _T:
    """Return what the user has given before the name of the command; ``value`` where that is the command's own, or
    nothing is before it.
    """
    before: _T | None = context.find_root().params.get(f"_{name}")
    source = context.get_parameter_source(name)
    own = source is not None and source.name == "COMMANDLINE"
    return value if own or before is None else before


def client_command(app: typer.Typer, name: str | None = None) -> Callable[[Command], Command]:
    """Return a decorator that makes a function whose first argument is a :class:`Client` a command of ``app``.

    The command has ``--url`` and ``--api-key-file`` beside the function's own parameters; the function gets a client
    of that server, which is closed when it returns.
    """

    def register(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        _client, *own = signature.parameters.values()

        @functools.wraps(function)
        def command(*, ctx: typer.Context, url: str, key_file: Path | None, **arguments: Any) -> None:
            with _connect(_before(ctx, "url", url), _before(ctx, "key_file", key_file)) as client:
                function(client, **arguments)

        # Typer reads a command's arguments and options from its signature and its annotations.
        parameters = [*own, *_OPTIONS_OF_A_CLIENT]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return app.command(name)(command)

    return register


def _connect(url: str, key_file: Path | None, timeout: float = 60.0) -> Client:
    """Return a client of a server.

    Raises:
        typer.BadParameter: the file of the key can't be read.
    """
    if key_file is None:
        return Client(url, timeout=timeout)
    try:
        key = key_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{key_file} can't be read: {error}", param_hint="--api-key-file") from error
    if not key:
        raise typer.BadParameter(f"{key_file} is empty", param_hint="--api-key-file")
    return Client(url, api_key=key, timeout=timeout)
