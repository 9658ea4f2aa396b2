"""Whole metrics and memory records, a page at a time, for tables of any length."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa

from symadj.service.store import memory
from symadj.service.store.database import Database
from symadj.service.store.step_range import EVERY_STEP, StepRange
from symadj.service.store.tables import MemoryPoint, MetricPoint

__all__ = ["MEMORY_COLUMNS", "memory_rows", "metric_rows"]

# Rows that are read at once; of metrics, of all together, and of each no fewer than the least.
_PAGE = 10_000
_LEAST = 50
MEMORY_COLUMNS = (
    *("step", "rank", "phase", "time", "attempt"),
    *("host_idle_bytes", "host_peak_bytes", "device_idle_bytes", "device_peak_bytes"),
)


def metric_rows(
    store: Database, job_id: str, names: Sequence[str], steps: StepRange = EVERY_STEP
) -> Iterator[list[int | float | None]]:
    """Yield a row for every step at which one of the metrics has a value: the step, then each value or None."""
    page = max(_LEAST, _PAGE // max(1, len(names)))
    columns = [_values(store, job_id, name, place, page, steps) for place, name in enumerate(names)]
    for step, found in groupby(heapq.merge(*columns, key=lambda item: item[0]), key=lambda item: item[0]):
        row: list[int | float | None] = [step, *[None] * len(names)]
        for _, place, value in found:
            row[place + 1] = value
        yield row


def _values(
    store: Database, job_id: str, name: str, place: int, page: int, steps: StepRange
) -> Iterator[tuple[int, int, float]]:
    """Yield step, ``place`` and value of a metric in the order of the steps."""
    query = sa.select(MetricPoint.step, MetricPoint.value).where(
        MetricPoint.job_id == job_id, MetricPoint.name == name, *steps.conditions(MetricPoint.step)
    )
    after = -1
    while True:
        with store.read_session() as session:
            rows = session.execute(query.where(MetricPoint.step > after).order_by(MetricPoint.step).limit(page)).all()
        yield from ((step, place, value) for step, value in rows)
        if len(rows) < page:
            return
        after = rows[-1].step


def memory_rows(
    store: Database, job_id: str, *, rank: int | None, phase: str | None, after_seq: int = 0
) -> Iterator[list[int | str | datetime | None]]:
    """Yield every memory record, in the order in which they were stored; the columns are ``MEMORY_COLUMNS``."""
    after = after_seq
    while True:
        with store.read_session() as session:
            points: Sequence[MemoryPoint] = memory.points(
                session, job_id, rank=rank, phase=phase, after_seq=after, limit=_PAGE
            )
            rows = [[getattr(point, name) for name in MEMORY_COLUMNS] for point in points]
            after = points[-1].seq if points else after
        yield from rows
        if len(rows) < _PAGE:
            return
