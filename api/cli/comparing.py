"""One spec by several gradients: submit them, and print, write or draw what came of each."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from symadj.api.cli.documents import read_spec, set_fields
from symadj.api.cli.results import size
from symadj.api.cli.shared import AsJson, client_command, print_answer
from symadj.api.client import Client
from symadj.api.schemas.comparisons import ComparedGradient, ComparisonRead
from symadj.service.contract.states import TERMINAL, JobState

app = typer.Typer()

_POLL_SECONDS = 2.0
_HEADINGS = (
    "gradient",
    "state",
    "test NLL",
    "gradient error",
    "step's memory",
    "peak",
    "s/step",
    "nfe fwd",
    "nfe bwd",
    "job",
)

Markdown = Annotated[Path | None, typer.Option(help="Write the table here, as Markdown.")]
Plot = Annotated[Path | None, typer.Option(help="Draw memory beside time here: .png, .svg or .pdf; needs matplotlib.")]


@client_command(app)
def compare(
    client: Client,
    spec: Annotated[Path, typer.Argument(help="A job spec, YAML or JSON; - reads standard input.")],
    gradients: Annotated[
        str,
        typer.Option(
            help="all, or a list with commas; options in YAML: 'symplectic,{kind: symplectic, keep: {kind: steps}}'"
        ),
    ] = "all",
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="A short training: so many likelihood steps at a constant rate.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change the spec.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until all have ended, and print the table.")] = False,
    as_json: AsJson = False,
    markdown: Markdown = None,
    plot: Plot = None,
    key: Annotated[str | None, typer.Option(help="Idempotency-Key: the same key compares once.")] = None,
) -> None:
    """Train one spec by several gradients, a job each; print the comparison's id."""
    document = read_spec(spec)
    set_fields(document, settings)
    made = client.compare(document, _gradients(gradients), max_steps=max_steps, idempotency_key=key)
    if not as_json:
        print(made.id, flush=True)
    if not (watch or markdown or plot):
        if as_json:
            print_answer(made, [], as_json)
        return
    while any(item.state not in TERMINAL for item in made.gradients):
        time.sleep(_POLL_SECONDS)
        made = client.comparison(made.id)
    _show(made, as_json, markdown, plot)
    sys.exit(any(item.state is not JobState.SUCCEEDED for item in made.gradients))


@client_command(app)
def comparison(
    client: Client,
    comparison_id: Annotated[str, typer.Argument(metavar="COMPARISON", help="Its id.")],
    as_json: AsJson = False,
    markdown: Markdown = None,
    plot: Plot = None,
) -> None:
    """Show what each gradient of a comparison took and gave so far."""
    _show(client.comparison(comparison_id), as_json, markdown, plot)


def _gradients(text: str) -> list[dict[str, Any]] | None:
    """Return the gradients that an option lists; None for all.

    Raises:
        typer.BadParameter: it is no list of names and options.
    """
    if text.strip() == "all":
        return None
    try:
        items = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{text!r} is no list: {error}", param_hint="--gradients") from error
    chosen = [{"kind": item} if isinstance(item, str) else item for item in items]
    for item in chosen:
        if not isinstance(item, dict):
            raise typer.BadParameter(f"{item!r} is no gradient: write its name, or {{kind: name, ...}}")
    return chosen


def _show(made: ComparisonRead, as_json: bool, markdown: Path | None, plot: Path | None) -> None:
    if markdown is not None:
        markdown.write_text(_as_markdown(made))
    if plot is not None:
        _draw(made, plot)
    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold")
    for item in made.gradients:
        table.add_row(*(escape(cell) for cell in _cells(item)))
    print_answer(made, [table], as_json)


def _as_markdown(made: ComparisonRead) -> str:
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *(_cells(item) for item in made.gradients)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _name(item: ComparedGradient) -> str:
    """Return the kind of a gradient with its options."""
    gradient = dict(item.gradient)
    kind, keep = str(gradient.pop("kind")), gradient.pop("keep", None)
    if keep is not None:
        kind += f", keep {' '.join(str(value) for value in keep.values())}"
    return kind + "".join(f", {name} {value}" for name, value in gradient.items() if value is not None)


def _cells(item: ComparedGradient) -> tuple[str, ...]:
    nll = "-" if item.test_nll is None else f"{item.test_nll:.4f}"
    return (
        _name(item),
        item.state.value,
        nll if item.test_nll_stderr is None else f"{nll} +- {item.test_nll_stderr:.4f}",
        "-" if item.gradient_error is None else f"{item.gradient_error:.1e}",
        size(item.above_idle_bytes),
        size(item.peak_bytes),
        "-" if item.step_seconds is None else f"{item.step_seconds:.3g}",
        "-" if item.nfe_forward is None else f"{item.nfe_forward:g}",
        "-" if item.nfe_backward is None else f"{item.nfe_backward:g}",
        item.job,
    )


def _draw(made: ComparisonRead, path: Path) -> None:
    """Draw each gradient's memory and time of a step.

    Raises:
        typer.BadParameter: matplotlib is not installed, or knows no such file.
    """
    try:
        from matplotlib.figure import Figure  # an extra of its own, and slow to load
    except ImportError as error:
        raise typer.BadParameter("drawing needs matplotlib: pip install matplotlib", param_hint="--plot") from error
    measured = [item for item in made.gradients if item.step_seconds is not None and item.above_idle_bytes is not None]
    figure = Figure(figsize=(8.0, 1.5 + 0.4 * len(measured)), layout="constrained")
    memory, seconds = figure.subplots(1, 2, sharey=True)
    names = [_name(item) for item in measured]
    memory.barh(names, [(item.above_idle_bytes or 0) / 2**20 for item in measured], color="#4477aa")
    memory.set_xlabel("memory of a step above rest, MiB")
    memory.invert_yaxis()
    seconds.barh(names, [item.step_seconds or 0.0 for item in measured], color="#cc6677")
    seconds.set_xlabel("seconds a step, median")
    try:
        figure.savefig(path)
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--plot") from error
