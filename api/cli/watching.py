"""Follows a job by polling the API: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from symadj.api.cli.results import size
from symadj.api.client import Client
from symadj.api.schemas.jobs import EventRead, JobRead
from symadj.service.contract.states import TERMINAL, JobState

__all__ = ["watch"]

POLL_SECONDS = 1.0
# Without a terminal to redraw, one line every so many seconds.
LINE_SECONDS = 10.0


def watch(client: Client, job_id: str, console: Console) -> JobRead | None:
    """Follow a job until it ends; None if the user leaves (Ctrl-C). An API that is away for a while ends nothing."""
    view = _Bar(console) if console.is_terminal else _Lines(console)
    seen = 0
    try:
        client.job(job_id)  # a missing job or server is reported at once
        with view.live(), client.patience(view.note):
            while True:
                # The job first: the events of its end are then already stored.
                job = client.job(job_id)
                events = client.events(job_id, after_seq=seen)
                seen = events.next_after_seq
                for event in events.items:
                    view.event(event)
                    # The job was read before its events, and may not have been paused by then.
                    if event.name == JobState.PAUSED and event is events.items[-1]:
                        view.note(f"paused until `symadj resume {job_id}`; this watch goes on")
                view.update(job)
                if job.state in TERMINAL:
                    return job
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return None


def _figures(job: JobRead) -> str:
    """Return loss, nfe and peak memory, or how many rows were scored, in one line."""
    latest = job.progress.latest
    parts = []
    if "rows_scored" in latest:
        parts.append(f"{latest['rows_scored']:,.0f} rows, {latest['rows_per_second']:,.0f} a second")
    if "loss" in latest:
        parts.append(f"loss {latest['loss']:.3f}")
    elif "flow_matching_loss" in latest:
        parts.append(f"flow matching {latest['flow_matching_loss']:.3f}")
    if "validation_nll" in latest:
        parts.append(f"val {latest['validation_nll']:.3f}")
    if "nfe_forward" in latest:
        parts.append(f"nfe {latest['nfe_forward']:.0f}+{latest.get('nfe_backward', 0.0):.0f}")
    peak = job.progress.device_peak_bytes or job.progress.host_peak_bytes
    if peak is not None:
        parts.append(f"peak {size(peak)}")
    return "  ".join(parts)


class _Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._first: tuple[float, int] | None = None
        self._attempt = 0

    def live(self) -> AbstractContextManager[object]:
        return nullcontext()

    def note(self, text: str) -> None:
        self._console.print(f"{datetime.now():%H:%M:%S}  {escape(text)}", soft_wrap=True)

    def event(self, event: EventRead) -> None:
        # A failure's message may be a long log; the report shows it whole.
        words = f": {event.message.splitlines()[0]}" if event.message else ""
        self._console.print(f"{event.time.astimezone():%H:%M:%S}  {escape(event.name + words)}", soft_wrap=True)

    def update(self, job: JobRead) -> None:
        now = time.monotonic()
        if job.state == JobState.RUNNING and job.progress.step and now >= self._next:
            self._next = now + LINE_SECONDS
            of = f"/{job.progress.max_steps}" if job.progress.max_steps else ""
            self._console.print(
                f"          step {job.progress.step}{of}  {_figures(job)}{self._eta(job, now)}", soft_wrap=True
            )

    def _eta(self, job: JobRead, now: float) -> str:
        """Return the time that is left at the pace since the first step seen; empty while that is not known."""
        step, of = job.progress.step, job.progress.max_steps
        # Another attempt began at an earlier step and a later time.
        if self._first is None or job.attempt != self._attempt or step < self._first[1]:
            self._first, self._attempt = (now, step), job.attempt
        since, first_step = self._first
        if of is None or step == first_step:
            return ""
        return f"  ETA {timedelta(seconds=round((now - since) / (step - first_step) * (of - step)))}"


class _Bar(_Lines):
    """A bar that is redrawn, events scrolling above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.fields[state]:>9}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def live(self) -> AbstractContextManager[object]:
        return self._progress

    def update(self, job: JobRead) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=job.progress.max_steps, state="", figures="")
        self._progress.update(self._task, completed=job.progress.step, state=job.state.value, figures=_figures(job))
