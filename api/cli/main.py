"""The commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from api import __version__
from api.cli import render, watching
from api.client import ApiProblem, ApiUnreachable, BadRequest, Client
from api.serve import ServeError, serve
from service.states import JobState

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train continuous normalizing flows as a service.")
# Where there is no terminal, nobody's columns need to be saved.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
errors = Console(stderr=True, highlight=False)

Url = Annotated[str, typer.Option("--url", envvar="SYMADJ_URL", help="The server.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answers.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 cancelled."""
    try:
        app()
    except ApiProblem as problem:
        errors.print(f"[red]{escape(problem.title)}[/red] (status {problem.status})")
        for pointer, detail in problem.errors or [("", problem.detail)]:
            errors.print(f"  {escape(pointer)}: {escape(detail)}" if pointer else f"  {escape(detail)}", soft_wrap=True)
        sys.exit(1)
    except (ApiUnreachable, ServeError, BadRequest) as error:
        errors.print(f"[red]symadj:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


@app.command("serve")
def serve_command(
    host: Annotated[str, typer.Option(help="Address on which the API listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0: a free one.")] = 8000,
    data: Annotated[Path, typer.Option(help="Folder of the store, the jobs' files and the logs.")] = Path(
        "symadj-data"
    ),
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs for workers; default: all.")] = None,
) -> None:
    """Run the whole service on this machine, in the foreground: API, dispatcher, a local Ray, SQLite."""

    def announce(url: str, folder: Path) -> None:
        console.print(render.ready_banner(url, folder, __version__), soft_wrap=True)

    console.print(f"symadj {__version__} is starting (Ray, API, dispatcher) ...")
    serve(host, port, data, cpus=cpus, announce=announce)
    console.print("symadj stopped.")


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="A job spec, YAML or JSON; - reads standard input.")],
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change the spec, e.g. --set gradient.kind=backprop"),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key submits once.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a job; print its id."""
    document = _read_spec(spec)
    for setting in settings or []:
        _set_field(document, setting)
    with Client(url) as client:
        job = client.submit(document, idempotency_key=key)
        print(job.id, flush=True)
        if watch:
            sys.exit(_watch(client, job.id))


@app.command()
def watch(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Follow a job to its end."""
    with Client(url) as client:
        sys.exit(_watch(client, job))


@app.command()
def show(job: JobId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show a job: state, progress, result, memory, files."""
    with Client(url) as client:
        read = client.job(job)
        if as_json:
            print(read.model_dump_json(indent=2))
        else:
            console.print(render.job_header(read))
            render.report(client, read, console)


@app.command("list")
def list_jobs(
    state: Annotated[list[JobState] | None, typer.Option(help="Only these.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, newest first."""
    with Client(url) as client:
        page = client.jobs(state=[item.value for item in state] if state else None, name=name, limit=limit)
    if as_json:
        print(page.model_dump_json(indent=2))
        return
    console.print(render.job_table(page.items))
    if page.has_more:
        console.print(f"(the newest {limit}; --limit shows more)")


@app.command()
def cancel(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Cancel a job: at once if it waits, at its next step if it runs."""
    with Client(url) as client:
        read = client.cancel(job)
    console.print(f"{read.id}: {read.state if read.state in watching.ENDED else 'cancel requested'}")


@app.command()
def delete(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Delete an ended job with its metrics, telemetry and files."""
    with Client(url) as client:
        client.delete(job)
    console.print(f"{job}: deleted")


@app.command()
def metrics(
    job: JobId,
    name: Annotated[str | None, typer.Argument(help="A metric; without one, all with their newest values.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print a job's metrics, or every value of one (tab-separated: step, value)."""
    with Client(url) as client:
        if name is None:
            listing = client.metrics(job)
            if as_json:
                print(listing.model_dump_json(indent=2))
            else:
                console.print(render.metric_table(listing.items))
            return
        known = [metric.name for metric in client.metrics(job).items]
        if name not in known:
            raise typer.BadParameter(f"the job has no {name!r}; it has: {', '.join(known) or 'none yet'}")
        for page in client.metric_pages(job, name):
            for point in page.points:
                print(point.model_dump_json() if as_json else f"{point.step}\t{point.value:.8g}")


@app.command()
def memory(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="One job, or several to compare.")],
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show memory by rank and phase; several jobs side by side, over the steps that all of them made."""
    with Client(url) as client:
        reads = [client.job(job) for job in jobs]
        last_step = min(read.progress.step for read in reads) if len(reads) > 1 else None
        if last_step == 0:
            raise typer.BadParameter("one of the jobs has made no step yet", param_hint="JOB...")
        summaries = [client.memory(read.id, last_step=last_step) for read in reads]
    if as_json:
        print(json.dumps([summary.model_dump(mode="json") for summary in summaries], indent=2))
        return
    render.print_parts(console, render.memory_table(reads, summaries, last_step))


@app.command()
def download(
    job: JobId,
    folder: Annotated[Path, typer.Argument(help="Where to put the files.")] = Path(),
    url: Url = DEFAULT_URL,
) -> None:
    """Download all files of a job."""
    folder.mkdir(parents=True, exist_ok=True)
    with Client(url) as client:
        for artifact in client.artifacts(job).items:
            client.download(job, artifact.name, folder / artifact.name)
            console.print(str(folder / artifact.name), soft_wrap=True)


def _watch(client: Client, job_id: str) -> int:
    job = watching.watch(client, job_id, console)
    if job is None:
        console.print(
            f"\nThe job goes on. `symadj watch {job_id}` follows it again, `symadj cancel {job_id}` stops it."
        )
        return 0
    render.report(client, job, console)
    return {JobState.SUCCEEDED: 0, JobState.CANCELLED: 3}.get(job.state, 1)


def _read_spec(path: Path) -> dict[str, Any]:
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


def _check_json(document: Any, where: str) -> None:
    """Refuse what YAML has and JSON has not: dates, infinities, binaries, keys that are no strings, cycles."""
    try:
        json.dumps(document, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        hint = "quote dates and other words that YAML takes for something else"
        raise typer.BadParameter(f"not to be written as JSON: {error}; {hint}", param_hint=where) from error


def _set_field(document: dict[str, Any], setting: str) -> None:
    """Apply ``a.b=value`` (value in YAML) to a spec. Another ``kind`` drops the fields of the kind before."""
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
        inner = document.setdefault(name, {})
        if not isinstance(inner, dict):
            raise typer.BadParameter(f"{name!r} of {path!r} has no fields in this spec", param_hint="--set")
        document = inner
    if last == "kind" and document.get("kind") != value:
        document.clear()
    document[last] = value
