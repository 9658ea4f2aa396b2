"""Commands that only read: jobs, attempts, checkpoints, metrics, memory, logs, files; and plan.

Commands that change something, or follow a job, are in :mod:`symadj.api.cli.running`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import DownloadColumn, TaskID, TransferSpeedColumn
from rich.text import Text

from symadj.api.cli import render
from symadj.api.cli.documents import Settings, SpecFile, read_spec, set_fields
from symadj.api.cli.log_printer import LogPrinter
from symadj.api.cli.plans import plan_parts
from symadj.api.cli.results import memory_table, print_parts
from symadj.api.cli.shared import (
    AsJson,
    JobId,
    client_command,
    console,
    following,
    job_ids,
    print_answer,
    progress_bars,
    tell,
)
from symadj.api.cli.tables import writing_csv
from symadj.api.client import Client
from symadj.api.diagnosis import diagnose
from symadj.api.schemas.jobs import EventRead
from symadj.service.contract.records import Stream
from symadj.service.contract.states import TERMINAL, JobState

app = typer.Typer()

Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write all values to this .csv or .parquet file.")]


@client_command(app)
def show(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """Show a job: state, progress, the data as read, result, memory, attempts, checkpoints, files."""
    read = client.job(job)
    if as_json:
        print(read.model_dump_json(indent=2))
    else:
        console.print(render.job_header(read))
        render.report(client, read, console)


@client_command(app, "list")
def list_jobs(
    client: Client,
    state: Annotated[list[JobState] | None, typer.Option(help="Only these.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only jobs of this owner.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only jobs with this label; of several, with all.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    page = client.jobs(state=state, name=name, owner=owner, label=label, limit=limit)
    more = [Text(f"(the newest {limit}; --limit shows more)")] if page.has_more else []
    print_answer(page, [render.job_table(page.items), *more], as_json)


@client_command(app)
def attempts(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """List the tries at a job: when, on how many workers, from where, how each ended and why."""
    read = client.attempts(job)
    print_answer(read, [render.attempt_table(read.items)], as_json)


@client_command(app)
def checkpoints(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """List the checkpoints of a job that are kept; `symadj continue` makes a new job from one."""
    read = client.checkpoints(job)
    print_answer(read, render.checkpoint_parts(read.items), as_json)


@client_command(app)
def datasets(client: Client, as_json: AsJson = False) -> None:
    """List the built-in data sets."""
    read = client.datasets()
    print_answer(read, [render.dataset_table(read.items)], as_json)


@client_command(app)
def fields(client: Client, as_json: AsJson = False) -> None:
    """List the vector fields that a spec may name, those of installed packages among them."""
    read = client.fields()
    print_answer(read, [render.field_table(read.items)], as_json)


@client_command(app)
def cluster(client: Client, as_json: AsJson = False) -> None:
    """Show the cluster's nodes, what active jobs hold of them, and who waits for what."""
    read = client.cluster()
    print_answer(read, render.cluster_parts(read), as_json)


@client_command(app)
def events(
    client: Client,
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what happened to a job, an event a line."""
    with following(client, job) if follow else nullcontext():
        for event in client.follow(job) if follow else _all_events(client, job):
            if not isinstance(event, EventRead):
                continue  # new values
            if as_json:
                print(event.model_dump_json(), flush=True)
            else:
                console.print(render.event_line(event), soft_wrap=True)


def _all_events(client: Client, job: str) -> Iterator[EventRead]:
    page = client.events(job)
    while page.items:
        yield from page.items
        page = client.events(job, after_seq=page.next_after_seq)


@client_command(app)
def doctor(client: Client, as_json: AsJson = False) -> None:
    """Check this installation, this machine and the server, and say what to do. The exit status is 1 if a check fails.

    SYMADJ_DATA, SYMADJ_STORE_URL and SYMADJ_RAY_ADDRESS say which folder, store and cluster are looked at.
    """
    found = diagnose(client)
    print_answer(found, [render.check_table(found.checks)], as_json)
    if found.failed:
        sys.exit(1)


@client_command(app)
def usage(client: Client, as_json: AsJson = False) -> None:
    """Show what the service takes: rows, bytes of the store, bytes of the jobs' files, what the disk has left."""
    read = client.usage()
    print_answer(read, render.usage_parts(read), as_json)


@client_command(app)
def metrics(
    client: Client,
    job: JobId,
    name: Annotated[str | None, typer.Argument(help="A metric; without one, all with their newest values.")] = None,
    out: Out = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Of one metric: go on with new values until the job has ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a job's metrics, or every value of one (tab-separated: step, value).

    With --out every value is written: a row a step, a column a metric.
    """
    if follow and (name is None or out is not None):
        raise typer.BadParameter("one metric is followed, and printed: name it, without --out", param_hint="--follow")
    if out is not None:
        with writing_csv(out) as stream:
            client.write_series(job, stream, None if name is None else [name])
        console.print(str(out), soft_wrap=True)
        return
    if name is None:
        listing = client.metric_list(job)
        print_answer(listing, [render.metric_table(listing.items)], as_json)
        return
    known = [metric.name for metric in client.metric_list(job).items]
    if name not in known:
        missing = f"the job has no {name!r}; it has: {', '.join(known) or 'none yet'}"
        if not follow or client.job(job).state in TERMINAL:
            raise typer.BadParameter(missing)
        tell(f"{missing}; it is waited for")
    with following(client, job) if follow else nullcontext():
        for page in client.metric_pages(job, name, follow=follow):
            for point in page.points:
                print(point.model_dump_json() if as_json else f"{point.step}\t{point.value:.8g}", flush=follow)


@client_command(app)
def memory(
    client: Client,
    jobs: Annotated[
        list[str],
        typer.Argument(metavar="JOB...", help="One job, or several to compare.", autocompletion=job_ids),
    ],
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Show memory by rank and phase; several jobs side by side, over the steps that all of them made.

    With --out every record of one job is written: a row for each step, rank and phase.
    """
    if out is not None:
        if len(jobs) != 1:
            raise typer.BadParameter(f"{len(jobs)} jobs were given: a file is of one", param_hint="--out")
        with writing_csv(out) as stream:
            client.write_memory(jobs[0], stream)
        console.print(str(out), soft_wrap=True)
        return
    reads = [client.job(job) for job in jobs]
    last_step = min(read.progress.step for read in reads) if len(reads) > 1 else None
    if last_step == 0:
        raise typer.BadParameter("one of the jobs has made no step yet", param_hint="JOB...")
    summaries = [client.memory(read.id, last_step=last_step) for read in reads]
    if as_json:
        print(json.dumps([summary.model_dump(mode="json") for summary in summaries], indent=2))
        return
    print_parts(console, memory_table(reads, summaries, last_step))


@client_command(app)
def logs(
    client: Client,
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Of this attempt alone.")] = None,
    rank: Annotated[str | None, typer.Option(metavar="RANK|driver", help="Of this rank or the driver alone.")] = None,
    stream: Annotated[Stream | None, typer.Option(help="What was printed to it alone.")] = None,
    tail: Annotated[int | None, typer.Option(min=1, max=1000, help="Only the newest lines, so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what the driver and the ranks of a job printed: their stdout, their stderr, last words of a crash."""
    printer = LogPrinter(as_json=as_json, with_source=rank is None, with_attempt=attempt is None)
    filters: dict[str, Any] = {"attempt": attempt, "rank": rank, "stream": stream}
    after = 0
    if tail is not None:
        newest = client.logs(job, tail=tail, **filters)
        printer.show(newest)
        after = newest.next_after
    if tail is None or follow:
        with following(client, job) if follow else nullcontext():
            for page in client.log_pages(job, after=after, follow=follow, **filters):
                printer.show(page)


@client_command(app)
def download(
    client: Client,
    job: JobId,
    folder: Annotated[Path, typer.Argument(help="Where to put the files.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Download all files of a job: those that are there are not fetched again, and one that broke off goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = client.artifacts(job)
    items = listed.items
    with progress_bars(DownloadColumn(), TransferSpeedColumn()) as bars:
        tasks = [bars.add_task(item.name, total=item.bytes) for item in items]
        for item, task in zip(items, tasks, strict=True):

            def advance(count: int, task: TaskID = task) -> None:
                bars.advance(task, count)

            client.download(job, item, folder / item.name, advance=advance)
            if not as_json:
                console.print(str(folder / item.name), soft_wrap=True)
    if as_json:
        print_answer(listed, [], as_json)


@client_command(app)
def plan(
    client: Client,
    spec: SpecFile,
    settings: Settings = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Values of a row; default: the server reads the data for it.")
    ] = None,
    context_columns: Annotated[int | None, typer.Option(min=0, help="Of a row's context, with --columns.")] = None,
    image: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Channels, height and width of the image in a row.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a job would take in memory, by every gradient, without submitting it."""
    document = read_spec(spec)
    set_fields(document, settings)
    made = client.plan(document, columns=columns, context_columns=context_columns, image=image)
    print_answer(made, plan_parts(made), as_json)
