"""Whole metrics and memory records, a page at a time, for tables of any length."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

from symadj.service.store import memory, metrics
from symadj.service.store.database import Database
from symadj.service.store.step_range import EVERY_STEP, StepRange

__all__ = ["MEMORY_COLUMNS", "memory_rows", "metric_rows"]

# What is read at once: blocks of metrics, of all together, and records of memory.
_BLOCKS = 128
_PAGE = 10_000
MEMORY_COLUMNS = (
    *("step", "rank", "phase", "time", "attempt"),
    *("host_idle_bytes", "host_peak_bytes", "device_idle_bytes", "device_peak_bytes"),
)


def metric_rows(
    store: Database, job_id: str, names: Sequence[str], steps: StepRange = EVERY_STEP
) -> Iterator[list[int | float | None]]:
    """Yield a row for every step at which one of the metrics has a value: the step, then each value or None."""
    most_blocks = _BLOCKS // max(1, len(names))
    columns = [_values(store, job_id, name, place, most_blocks, steps) for place, name in enumerate(names)]
    for step, found in groupby(heapq.merge(*columns, key=lambda item: item[0]), key=lambda item: item[0]):
        row: list[int | float | None] = [step, *[None] * len(names)]
        for _, place, value in found:
            row[place + 1] = value
        yield row


def _values(
    store: Database, job_id: str, name: str, place: int, most_blocks: int, wanted: StepRange
) -> Iterator[tuple[int, int, float]]:
    """Yield step, ``place`` and value of a metric in the order of the steps."""
    after = -1 if wanted.first is None else wanted.first - 1
    while True:
        with store.read_session() as session:
            chunk = metrics.by_step(session, job_id, name, after_step=after, most_blocks=most_blocks)
        if chunk is None:
            return
        steps, values = chunk
        part = wanted.within(steps)
        for step, value in zip(steps[part].tolist(), values[part].tolist(), strict=True):
            yield step, place, value
        after = int(steps[-1])
        if wanted.last is not None and after >= wanted.last:
            return


def memory_rows(
    store: Database, job_id: str, *, rank: int | None, phase: str | None, after_seq: int = 0
) -> Iterator[list[int | str | datetime | None]]:
    """Yield every memory record, in the order in which they were stored; the columns are ``MEMORY_COLUMNS``."""
    after = after_seq
    while True:
        with store.read_session() as session:
            points = memory.points(session, job_id, rank=rank, phase=phase, after_seq=after, limit=_PAGE)
        yield from ([getattr(point, name) for name in MEMORY_COLUMNS] for point in points)
        if len(points) < _PAGE:
            return
        after = points[-1].seq
