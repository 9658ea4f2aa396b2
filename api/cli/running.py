"""Commands that change something on the server, and those that stay with a job to its end.

Commands that only read are in :mod:`symadj.api.cli.showing`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from symadj.api.cli import render, watching
from symadj.api.cli.documents import RowSettings, Settings, SpecFile, csv_fields, read_spec, set_fields
from symadj.api.cli.labels import changes_of_labels
from symadj.api.cli.shared import AsJson, JobId, client_command, console, errors, print_answer
from symadj.api.client import Client, Job
from symadj.api.client.display import labels_text
from symadj.service.contract.layout import SCORES_FILE
from symadj.service.contract.spec.trial import trial_of
from symadj.service.contract.states import TERMINAL, JobState

app = typer.Typer()

Watch = Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")]
Key = Annotated[str | None, typer.Option(help="Idempotency-Key: the same key submits once.")]


@client_command(app)
def submit(
    client: Client,
    spec: SpecFile,
    watch: Watch = False,
    settings: Settings = None,
    uploads: Annotated[
        list[str] | None,
        typer.Option(
            "--upload",
            metavar="FIELD=FILE",
            help="Send a file here, and name it in this field, e.g. --upload data.path=cells.parquet",
        ),
    ] = None,
    trial: Annotated[
        bool,
        typer.Option(
            "--trial", help="Make it small: 20 steps, small batches, a short evaluation; it has the label trial=true."
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Submit nothing that would fail if it started now, as `validate` finds it.")
    ] = False,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job; print its id."""
    document = read_spec(spec)
    set_fields(document, [*(settings or ()), *_sent(client, uploads or ())])
    _submit(client, trial_of(document) if trial else document, key, watch, as_json, strict=strict)


@client_command(app)
def validate(client: Client, spec: SpecFile, settings: Settings = None, as_json: AsJson = False) -> None:
    """Show what a job would read, and what speaks against it, memory and nodes included, without submitting it.

    The exit status is 1 if the job would fail.
    """
    document = read_spec(spec)
    set_fields(document, settings)
    found = client.validate(document)
    nothing = [] if found.findings else [Text("Nothing speaks against it.")]
    read = [found.data] if found.data else []
    print_answer(found, [*render.read_data(read, found.findings), *nothing], as_json)
    if found.failed:
        sys.exit(1)


@client_command(app, "continue")
def continue_job(
    client: Client,
    job: JobId,
    step: Annotated[int | None, typer.Option(min=0, help="Its checkpoint of this step; default: the newest.")] = None,
    watch: Watch = False,
    settings: Settings = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Make a new job from a checkpoint of another: its weights, optimiser and count of steps, its spec with changes."""
    document = client.job(job).spec
    document["parent"] = {"job": job, "step": step}
    set_fields(document, settings)
    _submit(client, document, key, watch, as_json)


@client_command(app)
def clone(
    client: Client,
    job: JobId,
    watch: Watch = False,
    settings: Settings = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit the spec of a job again, with changes; print the new job's id. It trains from the start."""
    document = client.job(job).spec
    set_fields(document, settings)
    _submit(client, document, key, watch, as_json)


@client_command(app)
def retry(client: Client, job: JobId, watch: Watch = False, key: Key = None, as_json: AsJson = False) -> None:
    """Submit the spec of a failed or cancelled job again; print the new job's id. It trains from the start.

    From where it stopped, `continue` goes on.
    """
    sys.exit(_tell(client, client.retry(job, idempotency_key=key), watch, as_json))


@client_command(app)
def label(
    client: Client,
    job: JobId,
    labels: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="NAME= removes a label.")],
    name: Annotated[str | None, typer.Option(help="Give the job another name, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change labels of a job, whatever its state is."""
    read = client.change(job, name=name, labels=changes_of_labels(labels))
    print_answer(read, [Text(f"{read.id}: {labels_text(read.labels) or 'no labels'}")], as_json)


@client_command(app)
def score(
    client: Client,
    job: JobId,
    data: Annotated[
        str,
        typer.Argument(
            help="Rows in the data's units, their contexts beside them: a file here, which is sent (.csv, .npy, "
            ".parquet); with --stored, one that the service's workers can read."
        ),
    ],
    stored: Annotated[
        bool,
        typer.Option("--stored", help="DATA is a file, or a folder of parquet files, below the service's data roots."),
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers that share the rows; default: 1.")] = None,
    units: Annotated[str | None, typer.Option(help="Of rows and density: original (default) or transformed.")] = None,
    solver: Annotated[
        str | None, typer.Option("--settings", help="Of the solver: tested (default) or trained.")
    ] = None,
    settings: RowSettings = None,
    watch: Watch = False,
    download: Annotated[
        Path | None, typer.Option(help="Follow the job, and put its scores here: a parquet file.")
    ] = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Score any number of rows as a job on the cluster; print its id. For some thousands, logprob answers at once."""
    rows: dict[str, Any] | Path = Path(data)
    csv = None if stored else csv_fields(settings)
    if stored:
        document = {"data": _stored_rows(data)}
        set_fields(document, settings)
        rows = document["data"]
    made = client.score(job, rows, workers=workers, units=units, settings=solver, csv=csv, idempotency_key=key)
    status = _tell(client, made, watch or download is not None, as_json)
    if download is not None and client.job(made.id).state is JobState.SUCCEEDED:
        client.download(made.id, SCORES_FILE, download)
        if not as_json:
            console.print(str(download), soft_wrap=True)
    sys.exit(status)


def _sent(client: Client, uploads: Sequence[str]) -> Iterator[str]:
    """Send files, each FIELD=FILE; yield the settings that name them in a spec."""
    files = [(field, Path(file)) for field, _, file in (upload.partition("=") for upload in uploads)]
    for field, file in files:
        if not field or not file.is_file():
            raise typer.BadParameter(
                f"{field}={file} is not of the form FIELD=FILE with a file here", param_hint="--upload"
            )
    for field, file in files:
        yield f"{field}={json.dumps(client.upload(file).path)}"


def _stored_rows(path: str) -> dict[str, Any]:
    """Return the section that names a file, or a folder, below the data roots."""
    streamed = Path(path).suffix.lower() in {"", ".parquet"}
    return {"kind": "parquet_stream" if streamed else "file", "path": path}


@client_command(app)
def watch(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """Follow a job to its end."""
    sys.exit(_watch(client, job, as_json))


@client_command(app)
def cancel(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """Cancel a job: at once if it waits or is paused, at its next step if it runs."""
    read = client.cancel(job)
    print_answer(read, [Text(f"{read.id}: {read.state if read.state in TERMINAL else 'cancel requested'}")], as_json)


@client_command(app)
def pause(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """Pause a job: at once if it waits, at its next step and with a checkpoint if it runs."""
    read = client.pause(job)
    print_answer(read, [Text(f"{read.id}: {read.state}; `symadj resume {read.id}` lets it go on")], as_json)


@client_command(app)
def resume(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """Put a paused job back into the queue; it goes on from its newest checkpoint."""
    read = client.resume(job)
    print_answer(read, [Text(f"{read.id}: {read.state}")], as_json)


@client_command(app)
def checkpoint(client: Client, job: JobId, as_json: AsJson = False) -> None:
    """Ask a running job for a checkpoint after its next step."""
    read = client.ask_checkpoint(job)
    print_answer(
        read, [Text(f"{read.id}: asked for; `symadj checkpoints {read.id}` lists it when it is written")], as_json
    )


@client_command(app)
def delete(client: Client, job: JobId) -> None:
    """Delete an ended job with its metrics, telemetry, checkpoints and files."""
    client.delete(job)
    console.print(f"{job}: deleted")


def _submit(
    client: Client, document: dict[str, Any], key: str | None, watch: bool, as_json: bool, *, strict: bool | None = None
) -> None:
    """Submit a spec, print the job's id, and follow it if that was asked for."""
    made = client.submit(document, strict=strict or None, idempotency_key=key)
    sys.exit(_tell(client, made, watch, as_json))


def _tell(client: Client, job: Job, watch: bool, as_json: bool) -> int:
    """Print a new job and follow it if that was asked for; as JSON, the job as it is at the end of that.

    Return the status with which the command ends.
    """
    if as_json and not watch:
        print_answer(job, [], as_json)
    if not as_json:
        print(job.id, flush=True)
        for line in render.findings(job.findings):
            errors.print(line, soft_wrap=True)
    return _watch(client, job.id, as_json) if watch else 0


def _watch(client: Client, job_id: str, as_json: bool) -> int:
    job = client.wait(job_id) if as_json else watching.watch(client, job_id, console)
    if job is None:
        console.print(
            f"\nThe job goes on. `symadj watch {job_id}` follows it again, `symadj cancel {job_id}` stops it."
        )
        return 0
    if as_json:
        print_answer(job, [], as_json)
    else:
        with client.patience(lambda text: console.print(text, soft_wrap=True)):
            render.report(client, job, console)
    return {JobState.SUCCEEDED: 0, JobState.CANCELLED: 3}.get(job.state, 1)
