"""Output of the commands about jobs, their attempts and files, and the service."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from symadj.api.cli.data import data_parts
from symadj.api.cli.plans import planned_beside_measured
from symadj.api.cli.results import likelihoods, memory_table, print_parts, size
from symadj.api.client import Client
from symadj.api.client.display import labels_text, newest_figures, steps_text
from symadj.api.diagnosis import Check, Status
from symadj.api.schemas.jobs import AttemptRead, CheckpointRead, EventRead, JobRead, JobSummary
from symadj.api.schemas.service import ClusterNodeRead, ClusterRead, DatasetRead, FieldRead, NodeRead, UsageRead
from symadj.api.schemas.telemetry import ArtifactRead, MetricRead
from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.finding import Finding
from symadj.service.contract.layout import SCORES_FILE
from symadj.service.contract.spec import SCORES, kind_of
from symadj.service.contract.states import JobState, ReasonCode
from symadj.service.roles import LOCAL

__all__ = [
    "attempt_table",
    "check_table",
    "checkpoint_parts",
    "cluster_parts",
    "curl_lines",
    "event_line",
    "findings",
    "job_header",
    "job_table",
    "metric_table",
    "ready_banner",
    "report",
    "usage_parts",
]

_COLOURS = {
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
    JobState.RUNNING: "cyan",
    JobState.PAUSING: "magenta",
    JobState.PAUSED: "magenta",
}


def event_line(event: EventRead) -> Text:
    """Return an event in a line."""
    attempt = f", attempt {event.attempt}" if event.attempt else ""
    told = f": {event.message}" if event.message else ""
    return Text.assemble(f"{event.time:%Y-%m-%d %H:%M:%S} ", (event.name, "bold"), f" ({event.actor}{attempt}){told}")


def findings(items: Sequence[Finding]) -> list[Text]:
    """Return what was found of a spec, a line each."""
    colours = {"error": "red", "warning": "yellow"}
    return [
        Text.assemble((item.severity, colours[item.severity]), f" {item.pointer or '/'}: {item.detail}")
        for item in items
    ]


def read_data(read: Sequence[DataSummary], found: Sequence[Finding], *, section: str = "/data") -> list[RenderableType]:
    """Return what was read before there is a job, and what was found besides; ``section`` is where a spec names it."""
    if not read:
        return [*findings(found)]
    # What is unusual about the data stands beside them.
    besides = [item for item in found if (item.pointer, item.severity) != (section, "warning")]
    parts = [part for summary in read for part in data_parts(summary, "--json prints them all")]
    return [*parts, *findings(besides)]


_KEY_HEADER = ' -H "Authorization: Bearer $SYMADJ_API_KEY"'


def ready_banner(url: str, data: Path, version: str, *, keys: bool) -> Text:
    """Return what ``symadj serve`` says when it is ready; ``keys`` is whether it asks for them."""
    spec = '{"data": {"kind": "toy", "name": "moons"}, "stop": {"kind": "steps", "max_steps": 200}}'
    header = _KEY_HEADER if keys else ""
    return Text(
        f"symadj {version} is ready.\n"
        f"  page       {url}\n"
        f"  API docs   {url}/docs (as data: {url}/openapi.json)\n"
        f"  data       {data}\n"
        f"  try        curl -s{header} {url}/api/v1/jobs -H 'Content-Type: application/json' -d '{spec}'\n"
        f"             {Path(sys.argv[0])} submit spec.yaml --watch --url {url}\n"
        "  stop       Ctrl-C\n"
    )


def _state(state: JobState) -> str:
    colour = _COLOURS.get(state, "default")
    return f"[{colour}]{state.value}[/{colour}]"


def _when(time: datetime | None) -> str:
    return "-" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _standing(job: JobSummary) -> str:
    """Return the state of a job, and what comes next."""
    words = [_state(job.state)]
    if job.attempt:
        words.append(f"attempt {job.attempt}")
    if job.attempts_lost:
        words.append(f"{job.attempts_lost} lost")
    if job.stop_requested is not None and job.state is not JobState.PAUSING:
        words.append(f"to stop at its next step ({job.stop_requested.value})")
    if job.alerts:
        words.append(f"[yellow]alert: {', '.join(job.alerts)}[/yellow]")
    if job.reason is ReasonCode.PRUNED:
        words.append("pruned by its sweep")
    elif job.cancelled_by is not None:
        words.append(f"cancelled by {escape(job.cancelled_by)}")
    if job.state is JobState.QUEUED and job.not_before is not None:
        words.append(f"the next attempt not before {_when(job.not_before)}")
    return ", ".join(words)


def job_header(job: JobRead) -> Table:
    """Return the description and the progress of a job."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("job", f"{job.id}  ({escape(job.name)})")
    table.add_row("state", _standing(job))
    if job.parent is not None:
        table.add_row("goes on from", f"{job.parent.job}, {job.parent.checkpoint}")
    table.add_row("created", _when(job.created_at))
    table.add_row("started", _when(job.started_at))
    table.add_row("finished", _when(job.finished_at))
    if kind_of(job.spec) == SCORES:
        table.add_row("scores rows by", job.spec["trained"]["job"])
        scored = job.progress.latest.get("rows_scored")
        table.add_row("rows", "-" if scored is None else f"{scored:,.0f}")
    else:
        table.add_row("gradient", job.spec["gradient"]["kind"])
        table.add_row("steps", steps_text(job) or "-")
        table.add_row("newest", ", ".join(newest_figures(job)) or "-")
    if job.labels:
        table.add_row("labels", escape(labels_text(job.labels)))
    if job.telemetry != "whole":
        table.add_row("telemetry", f"[yellow]{job.telemetry}[/yellow] by the server's retention")
    return table


def job_table(jobs: Sequence[JobSummary]) -> Table:
    """Return jobs as rows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # Without keys, `local` owns everything.
    owners = any(job.owner != LOCAL.name for job in jobs)
    labels = any(job.labels for job in jobs)
    headings = ("job", "name", *(["owner"] if owners else []), "state", "steps", "newest", "peak", "created")
    for heading in (*headings, *(["labels"] if labels else []), "why"):
        table.add_column(heading, no_wrap=heading == "job")
    for job in jobs:
        table.add_row(
            job.id,
            escape(job.name),
            *([escape(job.owner)] if owners else []),
            _state(job.state) + (f" ({job.attempts_lost} lost)" if job.attempts_lost else ""),
            steps_text(job),
            ", ".join(newest_figures(job)),
            _peak(job),
            _when(job.created_at),
            *([escape(labels_text(job.labels))] if labels else []),
            _why(job),
        )
    return table


def _peak(job: JobSummary) -> str:
    """Return the highest peak of any worker, of its device where it has one."""
    peak = job.progress.device_peak_bytes or job.progress.host_peak_bytes
    return size(peak)


def _why(job: JobSummary) -> str:
    """Return why a job is in its state, what it waits for, or which alerts it has."""
    if job.reason is not None:
        return job.reason.value
    if job.alerts:
        return f"[yellow]alert: {', '.join(job.alerts)}[/yellow]"
    return "" if job.waiting is None else f"{job.waiting.place}. in the queue"


def metric_table(metrics: Sequence[MetricRead]) -> Table:
    """Return metrics with their newest values."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    for heading in ("values", "last step", "last value"):
        table.add_column(heading, justify="right")
    for metric in metrics:
        table.add_row(metric.name, str(metric.points), str(metric.last_step), f"{metric.last_value:.6g}")
    return table


def attempt_table(attempts: Sequence[AttemptRead]) -> Table:
    """Return attempts as rows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("attempt", "workers", "from step", "submitted", "finished", "outcome", "why"):
        table.add_column(heading, justify="right" if heading in {"attempt", "workers", "from step"} else "left")
    for attempt in attempts:
        words = (attempt.message or "").splitlines()[:1]
        reason = [attempt.reason.value] if attempt.reason else []
        table.add_row(
            str(attempt.number),
            str(attempt.workers or "-"),
            "-" if attempt.resumed_from_step is None else str(attempt.resumed_from_step),
            _when(attempt.submitted_at),
            _when(attempt.finished_at),
            attempt.outcome or "",
            escape(": ".join(reason + words)),
        )
    return table


def checkpoint_parts(checkpoints: Sequence[CheckpointRead]) -> list[RenderableType]:
    """Return checkpoints as rows, and the folder in which they are."""
    if not checkpoints:
        return [Text("No checkpoints.")]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("step", "attempt", "size", "validation NLL"):
        table.add_column(heading, justify="right")
    for heading in ("cause", "written", "name"):
        table.add_column(heading, no_wrap=True)
    for item in checkpoints:
        nll = "-" if item.validation_nll is None else f"{item.validation_nll:.4f}"
        written = _when(item.created_at)
        table.add_row(str(item.step), str(item.attempt), size(item.bytes), nll, item.cause.value, written, item.name)
    return [table, Text(f"in {Path(checkpoints[-1].path).parent}\n")]


def dataset_table(datasets: Sequence[DatasetRead]) -> Table:
    """Return data sets as rows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("kind", "name", "rows", "columns", "licence", "about"):
        table.add_column(heading)
    for item in datasets:
        of_rows = "-" if item.rows is None else f"{item.rows:,}"
        table.add_row(item.kind, item.name, of_rows, str(item.dim), item.licence, escape(item.description))
    return table


def field_table(fields: Sequence[FieldRead]) -> Table:
    """Return vector fields as rows, with the names of their options."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("kind", "name", "package", "options", "about"):
        table.add_column(heading)
    for field in fields:
        options = ", ".join(field.options.get("properties", {}))
        about = field.description if field.problem is None else f"can't be used: {field.problem}"
        table.add_row(*(escape(text) for text in (field.kind, field.name or "", field.package or "", options, about)))
    return table


def cluster_parts(cluster: ClusterRead) -> list[RenderableType]:
    """Return what the cluster has, who holds what of it, and who waits for what."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "workers", "CPUs", "GPUs", "memory"):
        table.add_column(heading, justify="right" if heading else "left")

    def add(what: str, node: NodeRead, workers: str = "") -> None:
        table.add_row(what, workers, f"{node.cpus:g}", f"{node.gpus:g}", size(int(node.memory)))

    for job in cluster.active:
        add(f"{job.id} ({escape(job.name)}, {job.state})", job.held, str(job.workers))
    add("used by active jobs", cluster.used)
    if cluster.total is not None:
        add("of", cluster.total)
    if cluster.nodes is None:
        first: RenderableType = Text("Ray does not answer: its nodes are not known.")
    else:
        first = _node_table(cluster.nodes)
    queue = [Text(f"  {job.place}. {job.id} ({job.name}): {job.reason}") for job in cluster.waiting]
    return [first, table, Text(f"Jobs in the queue: {cluster.queued}."), *queue]


def _node_table(nodes: Sequence[ClusterNodeRead]) -> Table:
    """Return what each node has, and what of it is free."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("node", "CPUs free", "of", "GPUs free", "of", "memory free", "of"):
        table.add_column(heading, justify="left" if heading == "node" else "right")
    for node in nodes:
        pairs = (
            (f"{node.free.cpus:g}", f"{node.cpus:g}"),
            (f"{node.free.gpus:g}", f"{node.gpus:g}"),
            (size(int(node.free.memory)), size(int(node.memory))),
        )
        table.add_row(escape(node.name), *(cell for pair in pairs for cell in pair))
    return table


def check_table(checks: Sequence[Check]) -> Table:
    """Return what was looked at, what was found, and what to do."""
    colours = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        advice = f"\n-> {escape(check.advice)}" if check.advice else ""
        status = f"[{colours[check.status]}]{check.status}[/{colours[check.status]}]"
        table.add_row(status, check.name, f"{escape(check.found)}{advice}")
    return table


def usage_parts(usage: UsageRead) -> list[RenderableType]:
    """Return the disk space and rows that the service takes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("table")
    table.add_column("rows", justify="right")
    for name, rows in usage.rows.items():
        table.add_row(name, f"{rows:,}")
    folders = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    folders.add_column("job")
    folders.add_column("files", justify="right")
    for folder in usage.jobs:
        folders.add_row(folder.job_id, size(folder.bytes))
    sums = f"Store {size(usage.store_bytes)}, files of the jobs {size(usage.jobs_bytes)}, "
    sums += f"uploads {size(usage.uploads_bytes)}, " + (
        f"left on their disk {size(usage.free_bytes)}." if usage.free_bytes is not None else "in a bucket."
    )
    return [Text(sums), table, *([folders] if usage.jobs else [])]


def report(client: Client, job: JobRead, console: Console) -> None:
    """Print what a job has read and what came of it, and how to ask for more."""
    if job.failure is not None:
        console.print(_failure(job), soft_wrap=True)
    print_parts(console, _data(client, job))
    attempts = client.attempts(job.id).items
    if len(attempts) > 1:
        console.print(attempt_table(attempts))
    if job.result is not None:
        print_parts(console, likelihoods(job.result))
    if job.plan is not None:
        console.print(planned_beside_measured(job.plan), soft_wrap=True)
    summary = client.memory(job.id)
    if summary.phases:
        print_parts(console, memory_table([job], [summary], None))
    checkpoints = client.checkpoints(job.id).items
    if checkpoints:
        print_parts(console, [Text("Checkpoints"), *checkpoint_parts(checkpoints)])
    artifacts = client.artifacts(job.id).items
    if artifacts:
        console.print(_artifact_lines(artifacts), soft_wrap=True)
    console.print(curl_lines(client, job, artifacts), soft_wrap=True)


def _data(client: Client, job: JobRead) -> list[RenderableType]:
    """Return what was read for a job, or why nothing is known of it."""
    read = client.data(job.id)
    if read.summary is None:
        return [Text(f"No summary of the data: {read.missing}.\n")]
    return data_parts(read.summary, f"GET /api/v1/jobs/{job.id}/data has them all")


def _failure(job: JobRead) -> Text:
    assert job.failure is not None
    text = Text(f"{job.failure.code.value}: ", style="red")
    text.append(job.failure.message, style="default")
    for name, value in job.failure.data.items():
        text.append(f"\n  {name}: {value}", style="default")
    return text


def _artifact_lines(artifacts: Sequence[ArtifactRead]) -> Text:
    lines = [f"  {artifact.path}  ({size(artifact.bytes)})" for artifact in artifacts]
    return Text("\n".join(["Files", *lines]) + "\n")


def curl_lines(client: Client, job: JobRead, artifacts: Sequence[ArtifactRead]) -> Text:
    """Return requests that show more of a job."""
    base = f"{client.url}/api/v1/jobs/{job.id}"
    metric = "rows_per_second" if kind_of(job.spec) == SCORES else "loss"
    curl = f"curl -s{_KEY_HEADER}" if client.has_key else "curl -s"
    lines = [
        "Ask for more",
        f"  {curl} {base}",
        f"  {curl} {base}/data",
        f"  {curl} {base}/metrics",
        f"  {curl} '{base}/metrics/{metric}?points=20'",
        f"  {curl} {base}/memory",
        f"  {curl} {base}/events",
        *(
            f"  {curl} -O {client.url}{artifact.url}"
            for artifact in artifacts
            if artifact.name.endswith((".safetensors", SCORES_FILE))
        ),
    ]
    return Text("\n".join(lines))
