"""The result of a job, for people: likelihoods and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from symadj.api.schemas.jobs import JobRead
from symadj.api.schemas.telemetry import MemorySummary
from symadj.service.contract.records import StepPhase
from symadj.service.contract.result import Baselines, Calibration, JobResult, ScoresResult, TestSolver

__all__ = ["likelihoods", "memory_table", "print_parts", "size"]

# Jobs that fit beside each other in a window.
_SIDE_BY_SIDE = 3
_DOUBTED = 0.01  # a p value below which a flow is said not to be calibrated


def size(count: int | None) -> str:
    """Return bytes in a unit that a person reads, a dash for none; GiB with two digits, where pydantic gives one."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def print_parts(console: Console, parts: Sequence[RenderableType]) -> None:
    """Print texts in as many columns as they need, tables in as many as there are."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def _number(value: float | None, digits: int = 3) -> str:
    """Return a figure of a result; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def likelihoods(result: JobResult) -> list[RenderableType]:
    """Return the test NLL beside the baselines on the same rows, and what could not be measured; or what was scored."""
    if result.scores is not None:
        return [_scores(result.scores)]
    failures = _failures(result)
    if result.test_nll is None:
        why = "it could not be measured" if failures else "the spec asks for none"
        lines = [f"No test NLL: {why}.", *_checks(result), _effort(result)]
        return [Text("\n".join(lines) + "\n"), *failures]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column("nats", justify="right")
    table.add_column("std. error", justify="right")
    table.add_row("[bold]this flow[/bold]", f"[bold]{_number(result.test_nll)}[/bold]", _number(result.test_nll_stderr))
    for name, nll in _baselines(result.baselines):
        table.add_row(name, _number(nll), "")
    divergence = (result.test_solver or TestSolver()).divergence
    bits = result.test_bits_per_dim
    lines = [
        f"{_count(result.test_rows)} held-out rows, {divergence} trace, after the spec's transforms; "
        f"in the data's own units: {_number(result.test_nll_original_units)} nats"
        + (f", {_number(bits)} bits/dim." if bits is not None else "."),
        *_checks(result),
        _effort(result),
    ]
    return [Text("Test negative log-likelihood"), table, Text("\n".join(lines) + "\n"), *failures]


def _baselines(baselines: Baselines | None) -> Iterator[tuple[str, float | None]]:
    """Yield classical densities by what they are and, beside a conditional flow, whether they know the context."""
    if baselines is None:
        return
    less = ", without the context" if baselines.conditional else ""
    if baselines.conditional:
        yield "Gaussian, its mean linear in the context", baselines.linear_gaussian
    if (mixture := baselines.gaussian_mixture) is not None:
        yield f"Gaussian mixture, {mixture.components} components{less}", mixture.test_nll
    yield f"Gaussian{less}", baselines.gaussian


def _scores(scores: ScoresResult) -> Text:
    stderr = "" if scores.log_prob_stderr is None else f", standard error {_number(scores.log_prob_stderr)}"
    return Text(
        f"{_count(scores.rows)} rows scored: mean log-density {_number(scores.log_prob)} nats a row{stderr}; the last "
        f"attempt took {_number(scores.seconds, 1)} s, {scores.rows_per_second:,.0f} rows a second.\n"
    )


def _effort(result: JobResult) -> str:
    return (
        f"{_count(result.parameters)} parameters, {_count(result.steps)} steps in "
        f"{_number(result.train_seconds, 0)} s, evaluated in {_number(result.evaluate_seconds, 0)} s."
    )


def _failures(result: JobResult) -> list[RenderableType]:
    """Return what of the report could not be made, and why; nothing where all was."""
    if not result.report_failures:
        return []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("part", "reason", "message"):
        table.add_column(heading)
    for failure in result.report_failures:
        table.add_row(escape(failure.part), failure.reason or "-", escape(_first_line(failure.message)))
    return [Text("Not in the report (the weights are kept)", style="yellow"), table]


def _first_line(message: str) -> str:
    return message.partition("\n")[0][:300]


def _checks(result: JobResult) -> list[str]:
    """Return a sentence for each measurement beside the likelihood."""
    lines = []
    if result.test_nll_gap is not None:
        lines.append(
            f"At training's tolerances: {_number(result.test_nll_training_tolerance)} nats, a gap of "
            f"{_number(result.test_nll_gap, 5)} (std. error {_number(result.test_nll_gap_stderr, 5)})."
        )
    if (inverse := result.inverse_error) is not None:
        lines.append(
            f"{inverse.rows:,} rows to the base and back, by training's solver: their values are off by "
            f"{inverse.rms:.1e} (rms), the worst one by {inverse.max:.1e}; smaller tolerances make it less."
        )
    if (gradient := result.gradient_error) is not None:
        lines.append(
            f"The gradient of {gradient.rows:,} rows differs from backpropagation in float64 by "
            f"{gradient.relative:.1e} of its norm."
        )
    if (tried := result.two_sample) is not None:
        lines.append(
            f"A classifier tells samples from held-out rows with accuracy {_number(tried.accuracy)} "
            f"(std. error {_number(tried.accuracy_stderr)}); 0.5 is chance."
        )
    if (calibration := result.calibration) is not None:
        least = min(column.ks_p for column in calibration.columns) * calibration.columns_tested
        lines.append(
            f"Calibration, {calibration.rows:,} rows among {calibration.draws:,} draws each: p {_p(least)} by the "
            f"least uniform of {calibration.columns_tested} columns, "
            f"{_p(calibration.highest_density.ks_p)} by density, {_p(calibration.tarp.ks_p)} by TARP; "
            f"{_sureness(calibration)}."
        )
    if result.density_integral is not None:
        lines.append(f"The density's integral over the plane: {_number(result.density_integral, 5)}.")
    return lines


def _p(value: float) -> str:
    """Return a p value with two digits; multiplied by the number of tests, it may be above 1."""
    return f"{min(value, 1.0):.2g}"


def _sureness(calibration: Calibration) -> str:
    """Return whether highest-density regions hold as many rows as they should."""
    density = calibration.highest_density
    area = f"area {density.area:+.3f} (std. error {density.area_stderr:.3f})"
    if density.ks_p >= _DOUBTED:
        return f"regions of density hold what they should, {area}"
    return f"the flow is {'too sure' if density.area < 0 else 'not sure enough'}, {area}"


def memory_table(
    jobs: Sequence[JobRead], summaries: Sequence[MemorySummary], last_step: int | None
) -> list[RenderableType]:
    """Return memory by rank and phase: a few jobs side by side, many a line each; with ratios to the first."""
    device = any(phase.device_peak_bytes is not None for summary in summaries for phase in summary.phases)
    where = "device" if device else "host"
    span = f" of steps 1 to {last_step}" if last_step else ""
    if len(jobs) > _SIDE_BY_SIDE:
        told = (
            f"Highest {where} memory of any rank{span}: by phase, above what the step began with; the peak; the highest"
        )
        return [Text(f"{told} phase as a ratio to the first job's"), _a_line_each(jobs, summaries, where)]
    title = Text(f"Memory by rank and phase: highest {where} peak{span}; in brackets, above what the step began with")
    return [title, _side_by_side(jobs, summaries, where)]


def _side_by_side(jobs: Sequence[JobRead], summaries: Sequence[MemorySummary], where: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("phase")
    for summary, job in zip(summaries, jobs, strict=True):
        table.add_column(f"{summary.gradient or 'scores'}\n{escape(job.name)}", justify="right")
    if len(summaries) > 1:
        table.add_column(f"times {summaries[0].gradient or 'scores'},\nabove idle", justify="right")
    indexed = [{(phase.rank, phase.phase): phase for phase in summary.phases} for summary in summaries]
    for key in indexed[0]:
        cells = []
        above: list[int | None] = []
        for phases in indexed:
            phase = phases.get(key)
            peak = getattr(phase, f"{where}_peak_bytes", None)
            above.append(getattr(phase, f"{where}_above_idle_bytes", None))
            cells.append(f"{size(peak)} (+{size(above[-1])})" if peak is not None else "-")
        if len(summaries) > 1:
            first, *others = above
            cells.append(", ".join(f"{other / first:.1f}" if first and other is not None else "-" for other in others))
        table.add_row(str(key[0]), key[1], *cells)
    return table


def _a_line_each(jobs: Sequence[JobRead], summaries: Sequence[MemorySummary], where: str) -> Table:
    phases = list(dict.fromkeys(phase.phase for summary in summaries for phase in summary.phases))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("job", "gradient"):
        table.add_column(heading)
    for heading in (*phases, "peak", "a step:\ntimes\nthe first"):
        table.add_column(heading, justify="right")
    names = [job.name for job in jobs]
    first: int | None = None
    for number, (job, summary) in enumerate(zip(jobs, summaries, strict=True)):
        above = {phase: _most(summary, f"{where}_above_idle_bytes", phase) for phase in phases}
        of_steps = [above[phase] for phase in get_args(StepPhase) if phase in above]
        most = max((value for value in of_steps if value is not None), default=None)
        first = first if number else most
        table.add_row(
            escape(job.name if names.count(job.name) == 1 else job.id),
            summary.gradient or "scores",
            *(size(value) for value in above.values()),
            size(_most(summary, f"{where}_peak_bytes")),
            f"{most / first:.1f}" if first and most is not None else "-",
        )
    return table


def _most(summary: MemorySummary, figure: str, phase: str | None = None) -> int | None:
    """Return the largest value of a figure over the ranks, of one phase or of all; None where there is none."""
    of_phases = (getattr(item, figure) for item in summary.phases if phase in (None, item.phase))
    return max((value for value in of_phases if value is not None), default=None)
