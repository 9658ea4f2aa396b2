"""TensorBoard: files of events, a folder a job, written by tensorboardX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from symadj.service.sinks.sink import Point, figures
from symadj.service.store.tables import Job

__all__ = ["TensorboardSink"]


class TensorboardSink:
    """Writes below a folder: ``tensorboard --logdir`` of it shows the jobs as runs.

    Each time that it begins, a job gets a new file, whose name is in the order in which TensorBoard reads them.

    Args:
        folder: is made.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, folder: str) -> None:
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        self._summary, self._event, self._writer = summary, Event, RecordWriter
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, Any] = {}

    def begin(self, job: Job, after_seq: int) -> None:
        """Open a file; a new one has the spec as text."""
        folder = self._folder / job.id
        folder.mkdir(exist_ok=True)
        if (before := self._open.pop(job.id, None)) is not None:
            before.close()
        self._open[job.id] = self._writer(str(folder / f"events.out.tfevents.{after_seq:012d}.symadj"))
        began = (job.started_at or job.created_at).timestamp()
        self._write(job, self._event(wall_time=began, file_version="brain.Event:2"))
        if after_seq == 0:
            spec = "\n".join(f"    {line}" for line in json.dumps(job.spec, indent=2).splitlines())
            self._write(job, self._event(wall_time=began, step=0, summary=self._summary.text("spec", spec)))
        self._open[job.id].flush()

    def take(self, job: Job, points: Sequence[Point]) -> None:
        """Write values as scalars."""
        for name, point in points:
            scalar = self._summary.scalar(name, point.value)
            self._write(job, self._event(wall_time=point.time.timestamp(), step=point.step, summary=scalar))
        self._open[job.id].flush()

    def end(self, job: Job, files: Sequence[str]) -> None:
        """Write the result and the files' addresses, and close the file."""
        at = (job.finished_at or job.updated_at).timestamp()
        for name, value in figures(job):
            scalar = self._summary.scalar(f"result/{name}", value)
            self._write(job, self._event(wall_time=at, step=0, summary=scalar))
        told = "\n\n".join((f"{job.state} {job.reason or ''}".strip(), *files))
        self._write(job, self._event(wall_time=at, step=0, summary=self._summary.text("end", told)))
        self._open.pop(job.id).close()

    def _write(self, job: Job, event: Any) -> None:
        self._open[job.id].write(event.SerializeToString())
