"""Series of telemetry, in blocks of some hundred records: a row a block, a column of numbers a cell.

A row a record took 157 bytes for a value of 8, and as long to draw or delete as there are rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.store.columns import Records, pack, unpack, unpack_rows
from symadj.service.store.database import BINARY, rows_as_they_come
from symadj.service.store.step_range import EVERY_STEP, StepRange
from symadj.service.store.tables import DeletedJob, TelemetryBlock

__all__ = [
    "Column",
    "after",
    "by_step",
    "delete_some",
    "extend",
    "index",
    "make_room",
    "newest",
    "records_by_series",
    "replace",
    "series_of",
    "some",
    "whole",
]

Column = Literal["seqs", "steps", "times", "attempts", "values"]

# Of a block. The newest one of a series is written anew with every batch: 12 kB at most, of a metric.
MOST_RECORDS = 1024
# Blocks that are read, asked for by their first numbers, and deleted at once.
_PAGE = 64
_SOME = 1000
_DELETED = 500
_PLAIN = {"synchronize_session": False}
_COLUMNS = (
    *(TelemetryBlock.first_seq, TelemetryBlock.steps, TelemetryBlock.seqs, TelemetryBlock.values),
    *(TelemetryBlock.times, TelemetryBlock.attempts),
)
# What every batch asks, for each of its series: made once, since it takes longer to make than to answer.
_TABLE = cast(sa.Table, TelemetryBlock.__table__)
_BLOCK = _TABLE.c
_OF_SERIES = (_BLOCK.job_id == sa.bindparam("of_job"), _BLOCK.series == sa.bindparam("of_series"))
_THIS = (*_OF_SERIES, _BLOCK.first_seq == sa.bindparam("of_first_seq"))
_BYTES = {BINARY: True}
_STORED = sa.select(*(_BLOCK[column.key] for column in _COLUMNS)).where(*_OF_SERIES).execution_options(**_BYTES)
_NEWEST = _STORED.order_by(_BLOCK.first_seq.desc()).limit(1)
_OVERLAPPING = _STORED.where(_BLOCK.last_step >= sa.bindparam("first"), _BLOCK.first_step <= sa.bindparam("last"))
_AFTER = _STORED.where(_BLOCK.last_seq > sa.bindparam("known")).order_by(_BLOCK.first_seq).limit(_PAGE)
_INDEX = ("first_seq", "last_seq", "first_step", "last_step", "records")
_CELLS = ("last_seq", "first_step", "last_step", "records", *Records.__dataclass_fields__)
_CHANGE = sa.update(_TABLE).where(*_THIS).values({name: sa.bindparam(name) for name in _CELLS})
_ADD = sa.insert(_TABLE)
_REMOVE = sa.delete(_TABLE).where(*_THIS)


def make_room(
    session: Session, job_id: str, series: str, steps: NDArray[np.int64], *, later_than: int | None = None
) -> tuple[NDArray[np.bool_], int]:
    """Remove the records of these steps (n,), sorted, from a series.

    Those that attempts after ``later_than`` have made stay.

    Returns:
        Which of the steps have room now (n,), and how many records were removed.
    """
    free = np.ones(len(steps), bool)
    removed = 0
    store, of = session.connection(), {"of_job": job_id, "of_series": series}
    for row in store.execute(_OVERLAPPING, of | {"first": int(steps[0]), "last": int(steps[-1])}).all():
        old = _records(row)
        places = np.searchsorted(steps, old.steps)
        goes = steps[np.minimum(places, len(steps) - 1)] == old.steps
        if later_than is not None:
            stays = goes & (old.attempts > later_than)
            free[places[stays]] = False
            goes &= ~stays
        if not goes.any():
            continue
        removed += int(goes.sum())
        this = of | {"of_first_seq": row.first_seq}
        left = old[~goes]
        if len(left):
            store.execute(_CHANGE, this | _cells(left))
        else:
            store.execute(_REMOVE, this)
    return free, removed


def extend(session: Session, job_id: str, series: str, records: Records) -> None:
    """Add records to the end of a series: their numbers are above all that it has."""
    store, of = session.connection(), {"of_job": job_id, "of_series": series}
    newest_block = store.execute(_NEWEST, of).one_or_none()
    if newest_block is not None and len(old := _records(newest_block)) < MOST_RECORDS:
        room = MOST_RECORDS - len(old)
        store.execute(_CHANGE, of | {"of_first_seq": newest_block.first_seq} | _cells(old + records[:room]))
        records = records[room:]
    new = [records[start : start + MOST_RECORDS] for start in range(0, len(records), MOST_RECORDS)]
    if new:
        rows = [{"job_id": job_id, "series": series, "first_seq": int(block.seqs[0])} | _cells(block) for block in new]
        store.execute(_ADD, rows)


def after(session: Session, job_id: str, series: str, after_seq: int) -> Iterator[Records]:
    """Yield the records with numbers above ``after_seq``, in the order of these, some at a time."""
    store, known = session.connection(), after_seq
    while True:
        rows = store.execute(_AFTER, {"of_job": job_id, "of_series": series, "known": known}).all()
        for row in rows:
            found = _records(row)
            known = int(found.seqs[-1])
            yield found if found.seqs[0] > after_seq else found[found.seqs > after_seq]
        if len(rows) < _PAGE:
            return


def newest(session: Session, job_id: str, series: str, limit: int) -> Records | None:
    """Return the newest records of a series, ``limit`` at most; None where it has none."""
    query = sa.select(*_COLUMNS).where(*_of(job_id, series)).order_by(TelemetryBlock.first_seq.desc()).limit(1)
    row = session.execute(query).one_or_none()
    found = None
    while row is not None:
        older = _records(row)
        found = older if found is None else older + found
        if len(found) >= limit:
            break
        row = session.execute(query.where(TelemetryBlock.first_seq < row.first_seq)).one_or_none()
    return None if found is None else found[-limit:]


def whole(
    session: Session,
    job_id: str,
    series: str,
    *columns: Column,
    after_seq: int = 0,
    steps: StepRange = EVERY_STEP,
) -> list[NDArray[Any]]:
    """Return columns of a series, each as one array (n,) or (k, n), in the order of the records' numbers.

    Only records with numbers above ``after_seq`` and steps in the range are among them.
    """
    wanted: list[Column] = [*columns]
    if after_seq and "seqs" not in wanted:
        wanted.append("seqs")
    if steps != EVERY_STEP and "steps" not in wanted:
        wanted.append("steps")
    these = [*_of(job_id, series), TelemetryBlock.last_seq > after_seq]
    if steps.first is not None:
        these.append(TelemetryBlock.last_step >= steps.first)
    if steps.last is not None:
        these.append(TelemetryBlock.first_step <= steps.last)
    count = sa.select(sa.func.sum(TelemetryBlock.records)).where(*these).scalar_subquery()
    query = sa.select(count, *(getattr(TelemetryBlock, name) for name in wanted)).where(*these)
    found: dict[Column, NDArray[Any]] = {}
    size = 0
    # Each block goes to its place at once: together they would take as much memory again.
    for records, *cells in rows_as_they_come(session, query.order_by(TelemetryBlock.first_seq)):
        start = size
        for name, cell in zip(wanted, cells, strict=True):
            part = _column(name, cell)
            if name not in found:
                found[name] = np.empty((*part.shape[:-1], int(records)), part.dtype)
            size = start + part.shape[-1]
            np.concatenate([part], -1, out=found[name][..., start:size])
    found = found or {name: _joined(name, ()) for name in wanted}
    masks = [found["seqs"] > after_seq] if after_seq else []
    if steps != EVERY_STEP:
        masks.append(steps.mask(found["steps"]))
    if all(mask.all() for mask in masks):
        return [found[name] for name in columns]
    mask = np.logical_and.reduce(masks)
    return [found[name][..., mask] for name in columns]


def by_step(
    session: Session, job_id: str, series: str, *, after_step: int, most_blocks: int = _PAGE
) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
    """Return the steps (n,) and values (k, n) of some of the first records with steps above ``after_step``, in the
    order of the steps; None where there are none. ``most_blocks`` are read at once, unless they overlap."""
    count = max(2, most_blocks)
    while True:
        first = (
            sa.select(TelemetryBlock.first_seq)
            .where(*_of(job_id, series), TelemetryBlock.last_step > after_step)
            .order_by(TelemetryBlock.first_step)
            .limit(count)
        )
        blocks = session.execute(
            sa.select(TelemetryBlock.first_step, TelemetryBlock.steps, TelemetryBlock.values)
            .where(*_of(job_id, series), TelemetryBlock.first_seq.in_(first))
            .execution_options(**_BYTES)
        ).all()
        if not blocks:
            return None
        steps = np.concatenate([unpack(block.steps) for block in blocks])
        values = np.concatenate([unpack_rows(block.values) for block in blocks], -1)
        known = steps > after_step
        if len(blocks) == count:  # a block that was not read may begin right behind the last one that was
            known &= steps <= max(block.first_step for block in blocks)
        if known.any():
            order = np.argsort(steps[known])
            return steps[known][order], values[:, known][:, order]
        count *= 2


def index(session: Session, job_id: str, series: str) -> NDArray[np.int64]:
    """Return which blocks a series has, in the order of their first numbers (n, 5): the first number, the last one, the
    first step, the last one, and how many records."""
    query = sa.select(*(getattr(TelemetryBlock, name) for name in _INDEX)).where(*_of(job_id, series))
    rows = cast(
        Iterable[tuple[int, ...]], session.connection().execute(query.order_by(TelemetryBlock.first_seq)).cursor
    )
    return np.array([*rows], np.int64).reshape(-1, len(_INDEX))


def some(
    session: Session, job_id: str, series: str, first_seqs: NDArray[np.int64] | None, *columns: Column
) -> Iterator[list[NDArray[Any]]]:
    """Yield columns of blocks of a series, each as an array (n,) or (k, n): of those with these first numbers (b,), in
    their order, or of all."""
    query = sa.select(*(getattr(TelemetryBlock, name) for name in columns)).where(*_of(job_id, series))
    pages = [query]
    if first_seqs is not None:
        parts = (first_seqs[start : start + _SOME] for start in range(0, len(first_seqs), _SOME))
        pages = [query.where(TelemetryBlock.first_seq.in_(part.tolist())) for part in parts]
    for page in pages:
        for row in rows_as_they_come(session, page.order_by(TelemetryBlock.first_seq)):
            yield [_column(name, cell) for name, cell in zip(columns, row, strict=True)]


def series_of(session: Session, job_id: str, prefix: str) -> list[str]:
    """Return the series of a job whose names begin with ``prefix``."""
    found = []
    name = session.scalar(_next_series(job_id).where(TelemetryBlock.series >= prefix))
    while name is not None and name.startswith(prefix):
        found.append(name)
        name = session.scalar(_next_series(job_id).where(TelemetryBlock.series > name))
    return found


def records_by_series(session: Session, job_id: str) -> dict[str, int]:
    """Return how many records each series of a job has."""
    held = sa.select(TelemetryBlock.series, sa.func.sum(TelemetryBlock.records)).where(TelemetryBlock.job_id == job_id)
    return {series: int(records) for series, records in session.execute(held.group_by(TelemetryBlock.series))}


def replace(session: Session, job_id: str, series: str, records: Records) -> None:
    """Let a series have these records and no others."""
    session.execute(sa.delete(TelemetryBlock).where(*_of(job_id, series)), execution_options=_PLAIN)
    extend(session, job_id, series, records)


def delete_some(session: Session) -> bool:
    """Delete some blocks of jobs that were deleted; return whether there may be more."""
    # One at a time sees to a job: whoever comes meanwhile takes another.
    job_id = session.scalar(sa.select(DeletedJob.job_id).limit(1).with_for_update(skip_locked=True))
    if job_id is None:
        return False
    series = session.scalar(sa.select(TelemetryBlock.series).where(TelemetryBlock.job_id == job_id).limit(1))
    if series is not None:
        some = sa.select(TelemetryBlock.first_seq).where(*_of(job_id, series)).limit(_DELETED)
        goes = sa.delete(TelemetryBlock).where(*_of(job_id, series), TelemetryBlock.first_seq.in_(some))
        session.execute(goes, execution_options=_PLAIN)
        return True
    session.execute(sa.delete(DeletedJob).where(DeletedJob.job_id == job_id), execution_options=_PLAIN)
    return True


def _of(job_id: str, series: str) -> tuple[sa.ColumnElement[bool], ...]:
    return TelemetryBlock.job_id == job_id, TelemetryBlock.series == series


def _next_series(job_id: str) -> sa.Select[str]:
    return sa.select(sa.func.min(TelemetryBlock.series)).where(TelemetryBlock.job_id == job_id)


def _records(row: Any) -> Records:
    return Records(
        seqs=_joined("seqs", (row.seqs,)),
        steps=_joined("steps", (row.steps,)),
        times=_joined("times", (row.times,)),
        attempts=_joined("attempts", (row.attempts,)),
        values=_joined("values", (row.values,)),
    )


def _cells(records: Records) -> dict[str, Any]:
    return {
        "last_seq": int(records.seqs[-1]),
        "first_step": int(records.steps.min()),
        "last_step": int(records.steps.max()),
        "records": len(records),
    } | {name: pack(column) for name, column in vars(records).items()}


def _joined(name: Column, cells: Sequence[bytes]) -> NDArray[Any]:
    if cells:
        return np.concatenate([_column(name, cell) for cell in cells], -1)
    return np.empty((1, 0)) if name == "values" else np.empty(0, np.int64)


def _column(name: Column, cell: bytes) -> NDArray[Any]:
    return unpack_rows(cell) if name == "values" else unpack(cell)
