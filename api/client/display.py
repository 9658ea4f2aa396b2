"""Jobs and metrics as a line of text, and as HTML for notebooks: all of it escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from symadj.api.schemas.jobs import JobRead, JobSubmitted, JobSummary
from symadj.service.contract.result import JobResult

__all__ = [
    "job_html",
    "job_line",
    "jobs_html",
    "jobs_text",
    "labels_text",
    "metrics_html",
    "newest_figures",
    "number",
    "steps_text",
]

# Of a curve: pixels, and how many points of its own size it is drawn from at most.
_WIDTH, _HEIGHT, _BUCKETS = 320, 60, 160
# Of a job's metrics, those that say most; the first two that it has are shown in a line.
_FIRST = ("validation_nll", "loss", "flow_matching_loss", "rows_scored")

Points = tuple[Sequence[int], Sequence[float]]


def number(value: float) -> str:
    """Return a figure in six digits."""
    return f"{value:.6g}"


def job_line(job: JobSummary) -> str:
    """Return a job in a line."""
    told = [job.state.value, steps_text(job), *newest_figures(job)]
    if job.waiting is not None:
        told.append(f"place {job.waiting.place}: {job.waiting.reason}")
    if job.reason is not None:
        told.append(job.reason.value)
    return f"<{type(job).__name__} {job.id} {job.name!r}: {', '.join(filter(None, told))}>"


def jobs_text(jobs: Iterable[JobSummary], *, has_more: bool) -> str:
    """Return jobs, a line each."""
    lines = [job_line(job) for job in jobs]
    return "\n".join([*lines, *(["(there are more)"] if has_more else [])]) or "no jobs"


def jobs_html(jobs: Iterable[JobSummary], *, has_more: bool) -> str:
    """Return jobs as a table."""
    rows = [
        (
            job.id,
            job.name,
            job.state.value,
            steps_text(job),
            ", ".join(newest_figures(job)),
            labels_text(job.labels),
            _when(job),
        )
        for job in jobs
    ]
    headings = ("job", "name", "state", "steps", "newest", "labels", "created")
    return _table(headings, rows) + ("<p>There are more: next_after is the place.</p>" if has_more else "")


def job_html(job: JobSummary) -> str:
    """Return a job as a table of what is known of it."""
    rows = [
        ("name", job.name),
        ("state", job.state.value),
        ("steps", steps_text(job)),
        ("newest", ", ".join(newest_figures(job))),
    ]
    rows += [("labels", labels_text(job.labels)), ("created", _when(job))]
    if job.waiting is not None:
        rows.append(("waits", f"place {job.waiting.place}: {job.waiting.reason}"))
    if isinstance(job, JobRead):
        if job.failure is not None:
            rows.append((f"failed ({job.failure.code.value})", job.failure.message))
        if job.result is not None:
            rows += _result(job.result)
    if isinstance(job, JobSubmitted):
        rows += [(item.severity, f"{item.pointer or '/'}: {item.detail}") for item in job.findings]
    return _table((job.id, ""), [row for row in rows if row[1]])


def metrics_html(metrics: Mapping[str, Points]) -> str:
    """Return metrics with their newest values, and a curve of each."""
    if not metrics:
        return "<p>no metrics yet</p>"
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td>{len(values):,} values</td><td>{escape(number(values[-1])) if len(values) else '-'}</td>"
        f"<td>{_curve(name, steps, values)}</td></tr>"
        for name, (steps, values) in metrics.items()
    )
    headings = "<tr><th style='text-align:left'>metric</th><th>values</th><th>newest</th><th></th></tr>"
    return f"<table>{headings}{rows}</table>"


def steps_text(job: JobSummary) -> str:
    """Return how far a job is."""
    if not job.progress.step:
        return ""
    of = f" of {job.progress.max_steps:,}" if job.progress.max_steps else ""
    return f"step {job.progress.step:,}{of}"


def newest_figures(job: JobSummary) -> list[str]:
    """Return the newest values that say most of a job."""
    latest = job.progress.latest
    return [f"{name} {number(latest[name])}" for name in _FIRST if name in latest][:2]


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as they are written on the command line."""
    return ", ".join(f"{name}={value}" for name, value in labels.items())


def _when(job: JobSummary) -> str:
    return f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"


def _result(result: JobResult) -> list[tuple[str, str]]:
    rows = []
    if result.test_nll is not None:
        spread = f" ± {number(result.test_nll_stderr)}" if result.test_nll_stderr is not None else ""
        rows.append(("test NLL, nats a row", f"{number(result.test_nll)}{spread}"))
    if result.test_nll_original_units is not None:
        rows.append(("... in the data's units", number(result.test_nll_original_units)))
    if result.scores is not None:
        rows.append(("rows scored", f"{result.scores.rows:,}, mean log-density {number(result.scores.log_prob)}"))
    return rows


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag} style='text-align:left'>{escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    return f"<table>{line(headings, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _curve(name: str, steps: Sequence[int], values: Sequence[float]) -> str:
    """Return a picture of finite values by step: the least and the most of each of its parts, so that spikes stay."""
    points = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not points:
        return "no finite values"
    low, high = min(value for _, value in points), max(value for _, value in points)
    first, last = points[0][0], points[-1][0]
    size = -(-len(points) // _BUCKETS)
    drawn: list[tuple[int, float]] = []
    for begin in range(0, len(points), size):
        part = points[begin : begin + size]
        drawn += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    places = " ".join(
        f"{_place(step, first, last, _WIDTH):.1f},{_HEIGHT - _place(value, low, high, _HEIGHT):.1f}"
        for step, value in drawn
    )
    label = escape(f"{name}: {number(low)} to {number(high)}, steps {first:,} to {last:,}", quote=True)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH + 4}' height='{_HEIGHT + 4}' "
        f"viewBox='-2 -2 {_WIDTH + 4} {_HEIGHT + 4}' role='img' aria-label='{label}'><title>{label}</title>"
        f"<polyline points='{places}' fill='none' stroke='currentColor' stroke-width='1.2'/></svg>"
    )


def _place(value: float, low: float, high: float, size: int) -> float:
    """Return where a value lies between others, in pixels; in the middle, where they are all the same."""
    # Halved first: the difference of two finite floats may be infinite.
    span = high / 2 - low / 2
    return size / 2 if span == 0 else (value / 2 - low / 2) / span * size
