"""A job's plan, for people: what a worker would hold, by gradient and number of solver steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from symadj.api.cli.results import size
from symadj.api.schemas.jobs import PlanRead
from symadj.service.contract.plan import Plan, PlannedPeak

__all__ = ["plan_parts", "planned_beside_measured"]


def _gradient_name(section: Mapping[str, Any]) -> str:
    """Return what a section ``gradient`` of a spec is called in a table, e.g. ``symplectic, keep binomial (8)``."""
    keep = section.get("keep")
    if keep is None:
        return str(section["kind"])
    bound = next((f" ({value})" for name, value in keep.items() if name != "kind"), "")
    return f"{section['kind']}, keep {keep['kind']}{bound}"


def plan_parts(plan: Plan) -> list[RenderableType]:
    """Return the plan as a text, a table and what limits."""
    given = f"{plan.columns} columns" + (f" and {plan.context_columns} of context" if plan.context_columns else "")
    sizes = Table(box=None, show_header=False, pad_edge=False)
    sizes.add_row("a worker's share of a step", f"{plan.rows_per_worker:,} rows of {given}")
    sizes.add_row("weights", f"{size(plan.weights_bytes)} ({plan.parameters:,} parameters, {plan.blocks} blocks)")
    sizes.add_row("optimiser", size(plan.optimizer_bytes))
    sizes.add_row("interpreter and libraries", size(plan.idle_bytes))
    for phase in plan.phases:
        sizes.add_row(phase.words, size(phase.peak_bytes))
    sizes.add_row("one state of a solve", size(plan.state_bytes))
    sizes.add_row("graph of one use of the field", size(plan.graph_bytes))
    sizes.add_row("resources.memory_budget", size(plan.memory_budget))
    sizes.add_row("there is for each worker", size(plan.available_bytes))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("gradient")
    table.add_column("time", justify="right")
    for peak in plan.chosen.peaks:
        table.add_column(f"N = {peak.steps}", justify="right")
    for item in plan.gradients:
        name = _gradient_name(item.gradient) + ("" if item.exact else " (not exact)")
        time = f"x {item.peaks[0].relative_time:.2f}"
        table.add_row(f"[bold]{name}[/bold]" if item.chosen else name, time, *map(_cell, item.peaks))
    limits: dict[str, list[int]] = {}
    for peak in plan.chosen.peaks:
        limits.setdefault(peak.limited_by, []).append(peak.steps)
    lines = [
        "By accepted steps N of each block's solve: what a worker holds, in brackets a training step's part of it, "
        "and the time of a step beside the spec's own gradient (bold). Data in memory come on top.",
        *(f"Most is held in {part} (N = {', '.join(map(str, steps))})." for part, steps in limits.items()),
    ]
    if plan.largest_batch is not None:
        largest = ", ".join(f"{rows:,} rows (N = {steps})" for steps, rows in plan.largest_batch.items())
        lines.append(f"The largest data.batch_size that fits: {largest}.")
    return [sizes, table, Text("\n".join(lines))]


def planned_beside_measured(read: PlanRead) -> Text:
    """Return what a run was to take, and what it took, in a line."""
    if read.planned_bytes is None or read.steps is None:
        peaks = ", ".join(f"{size(peak.worker_bytes)} (N = {peak.steps})" for peak in read.plan.chosen.peaks)
        beyond = read.plan.over_budget
        more = "" if beyond is None else f"Too much: {beyond}.\n"
        return Text(f"Planned peak of a worker: {peaks}.\n{more}")
    line = f"Planned peak of a worker, for {read.steps:g} steps of a block: {size(read.planned_bytes)}"
    line += f" in {read.limited_by}"
    if read.error is None:
        return Text(f"{line}.\n")
    return Text(f"{line}; measured {size(read.measured_bytes)} (the plan is off by {read.error:+.1%}).\n")


def _cell(peak: PlannedPeak) -> str:
    fits = [fit for fit in (peak.fits_budget, peak.fits_workers) if fit is not None]
    colour = "default" if not fits else "green" if all(fits) else "red"
    short = "" if all(fits) else ": too much"
    return f"[{colour}]{size(peak.worker_bytes)} ({size(peak.step_bytes)}){short}[/{colour}]"
