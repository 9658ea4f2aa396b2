"""Sweeps: submit one, follow it, list them, and change or end them."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from symadj.api.cli import render
from symadj.api.cli.documents import Settings, read_spec, set_fields
from symadj.api.cli.labels import changes_of_labels
from symadj.api.cli.shared import AsJson, client_command, console, errors, print_answer
from symadj.api.client import Client
from symadj.api.client.display import labels_text
from symadj.api.schemas.sweeps import SweepRead, SweepSummary, TrialRead
from symadj.service.contract.states import SweepState, TrialState

__all__ = ["app", "lists"]

_POLL_SECONDS = 2.0
_SUBMIT = "submit"


class _SubmitsByDefault(TyperGroup):
    """``symadj sweep sweep.yaml`` is ``symadj sweep submit sweep.yaml``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in where none is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [_SUBMIT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_SubmitsByDefault,
    no_args_is_help=True,
    help="Search over parameters of a spec: `symadj sweep sweep.yaml` begins a sweep, whose trials are jobs.",
)
lists = typer.Typer()

SweepFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A sweep, YAML or JSON; - reads standard input.")]
SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id.")]


@client_command(app, _SUBMIT)
def submit(
    client: Client,
    spec: SweepFile,
    wait: Annotated[bool, typer.Option("--wait", "-f", help="Follow the sweep to its end.")] = False,
    settings: Settings = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what its jobs would read and what speaks against it; submit nothing; status 1: it fails.",
        ),
    ] = False,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key submits once.")] = None,
    as_json: AsJson = False,
) -> None:
    """Begin a sweep; print its id."""
    document = read_spec(spec)
    set_fields(document, settings)
    if dry_run:
        check = client.validate_sweep(document)
        told = Text(f"{check.spec['trials']} trials, at most {check.spec['parallel']} at once.")
        print_answer(check, [*render.read_data(check.data, check.findings, section="/base/data"), told], as_json)
        sys.exit(any(item.severity == "error" for item in check.findings))
    made = client.submit_sweep(document, idempotency_key=key)
    if as_json and not wait:
        print_answer(made, [], as_json)
    if not as_json:
        print(made.id, flush=True)
        for line in render.findings(made.findings):
            errors.print(line, soft_wrap=True)
    if wait:
        sys.exit(_follow(client, made.id, as_json))


@client_command(app)
def show(
    client: Client,
    sweep: SweepId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until its end.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the trials as csv.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a sweep: each trial with its values, its state and what came of it, and the best."""
    if follow:
        sys.exit(_follow(client, sweep, as_json))
    if csv:
        sys.stdout.buffer.write(client.sweep_table(sweep))
    else:
        _show(client.sweep(sweep), as_json)


@client_command(app)
def label(
    client: Client,
    sweep: SweepId,
    labels: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="NAME= removes a label.")],
    name: Annotated[str | None, typer.Option(help="Give the sweep another name, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change labels of a sweep; its jobs keep theirs."""
    read = client.change_sweep(sweep, name=name, labels=changes_of_labels(labels))
    print_answer(read, [Text(f"{read.id}: {labels_text(read.labels) or 'no labels'}")], as_json)


@client_command(app)
def cancel(client: Client, sweep: SweepId, as_json: AsJson = False) -> None:
    """Cancel a sweep, and the jobs of its open trials."""
    read = client.cancel_sweep(sweep)
    told = f"{read.id}: {read.state.value}; {read.counts[TrialState.OPEN]} of its jobs may still be stopping"
    print_answer(read, [Text(told)], as_json)


@client_command(app)
def delete(client: Client, sweep: SweepId) -> None:
    """Delete a sweep that has ended; its jobs stay."""
    client.delete_sweep(sweep)
    console.print(f"{sweep}: deleted; its jobs stay (symadj list --label sweep={sweep})")


@client_command(lists)
def sweeps(
    client: Client,
    state: Annotated[list[SweepState] | None, typer.Option(help="Only these.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only sweeps of this owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List sweeps, newest first."""
    page = client.sweeps(state=state, owner=owner, limit=limit)
    table = Table(box=None, pad_edge=False)
    for heading in ("sweep", "name", "state", "trials", "pruned", "failed", "best", "objective", "created"):
        table.add_column(heading, overflow="fold")
    for item in page.items:
        done = sum(count for kind, count in item.counts.items() if kind is not TrialState.OPEN)
        best = "-" if item.best is None else f"{item.best.value:.6g}"
        counts = [str(item.counts[kind]) for kind in (TrialState.PRUNED, TrialState.FAILED)]
        created = f"{item.created_at:%Y-%m-%d %H:%M}"
        cells = [item.id, item.name, item.state.value, f"{done}/{item.wanted}", *counts, best, item.objective.metric]
        table.add_row(*map(escape, [*cells, created]))
    more = [Text(f"(the newest {limit}; --limit shows more)")] if page.has_more else []
    print_answer(page, [table, *more], as_json)


def _follow(client: Client, sweep_id: str, as_json: bool) -> int:
    """Print each trial that begins or ends, until the sweep has ended; return the exit status."""
    seen: dict[int, TrialState] = {}
    with client.patience(lambda text: console.print(text, soft_wrap=True)):
        while True:
            read = client.sweep(sweep_id)
            for trial in read.trials:
                if seen.get(trial.number) is not trial.state:
                    seen[trial.number] = trial.state
                    if not as_json:
                        console.print(_line(read, trial), soft_wrap=True)
            if read.state is not SweepState.RUNNING and not read.counts[TrialState.OPEN]:
                break
            time.sleep(_POLL_SECONDS)
    _show(read, as_json)
    return {SweepState.SUCCEEDED: 0, SweepState.CANCELLED: 3}.get(read.state, 1)


def _line(read: SweepSummary, trial: TrialRead) -> str:
    values = ", ".join(f"{path} {_cell(value)}" for path, value in trial.parameters.items())
    if trial.state is TrialState.OPEN:
        return escape(f"trial {trial.number} ({trial.job}): {values}")
    told = f"{read.objective.metric} {trial.value:.6g}" if trial.value is not None else trial.message or ""
    return escape(f"trial {trial.number} {trial.state.value}: {told}".strip())


def _show(read: SweepRead, as_json: bool) -> None:
    if as_json:
        print_answer(read, [], as_json)
        return
    objective = read.objective
    state = f"[bold]{read.state.value}[/bold]"
    console.print(f"{read.id}  {escape(read.name)}  {state}  {escape(read.message or '')}".rstrip(), soft_wrap=True)
    counts = ", ".join(f"{count} {state.value}" for state, count in read.counts.items() if count)
    pruner = read.spec["pruner"]["kind"]
    by = f"by {read.spec['sampler']['kind']}" + ("" if pruner == "none" else f", pruned by {pruner}")
    console.print(f"{sum(read.counts.values())} of {read.wanted} trials {by}: {counts or 'none yet'}", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    paths = list(read.spec["parameters"])
    for heading in ("trial", "state", objective.metric, *paths, "job"):
        table.add_column(escape(heading), overflow="fold")
    for trial in read.trials:
        best = read.best is not None and trial.number == read.best.number
        value = "-" if trial.value is None else f"{trial.value:.6g}"
        state = trial.state.value if trial.job_state is None or trial.state is not TrialState.OPEN else trial.job_state
        cells = [str(trial.number), state, value, *(_cell(trial.parameters.get(path)) for path in paths)]
        table.add_row(*map(escape, [*cells, trial.job or "-"]), style="bold green" if best else None)
    console.print(table)
    if read.best is not None:
        settings = " ".join(
            f"--set {shlex.quote(f'{path}={_cell(value)}')}" for path, value in read.best.parameters.items()
        )
        console.print(f"best: trial {read.best.number}, {objective.metric} {read.best.value:.6g}", soft_wrap=True)
        console.print(escape(f"  symadj submit SPEC {settings}"), soft_wrap=True)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
