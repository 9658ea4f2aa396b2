"""Telemetry in blocks of some hundred records, a column of numbers a cell, in place of a row a value.

Revision: 0011; follows: 0010. Some minutes for a store of gigabytes. The file of SQLite keeps its size (the room is
used again); ``VACUUM`` would make it smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

from symadj.service.store.columns import Records, as_microseconds, pack

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_RECORDS = 1024
_FIGURES = ("host_idle_bytes", "host_peak_bytes", "device_idle_bytes", "device_peak_bytes")


def upgrade() -> None:
    blocks = op.create_table(
        "telemetry_blocks",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("series", sa.String(length=120), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("first_seq", "last_seq", "first_step", "last_step", "records")
        ),
        *(
            sa.Column(name, sa.LargeBinary(), nullable=False)
            for name in ("steps", "values", "seqs", "attempts", "times")
        ),
        sa.PrimaryKeyConstraint("job_id", "series", "first_seq"),
    )
    op.create_index("ix_telemetry_blocks_steps", "telemetry_blocks", ["job_id", "series", "last_step"])
    op.create_table(
        "deleted_jobs", sa.Column("job_id", sa.String(length=64), nullable=False), sa.PrimaryKeyConstraint("job_id")
    )
    connection = op.get_bind()
    old = sa.MetaData()
    metrics = sa.Table("metric_points", old, autoload_with=connection)
    memory = sa.Table("memory_points", old, autoload_with=connection)
    for job_id, name in connection.execute(sa.select(metrics.c.job_id, metrics.c.name).distinct()).all():
        of_name = (metrics.c.job_id == job_id, metrics.c.name == name)
        _move(connection, metrics, of_name, ("value",), blocks, job_id, f"metric/{name}")
    places = sa.select(memory.c.job_id, memory.c.rank, memory.c.phase).distinct()
    for job_id, rank, phase in connection.execute(places).all():
        of_place = (memory.c.job_id == job_id, memory.c.rank == rank, memory.c.phase == phase)
        _move(connection, memory, of_place, _FIGURES, blocks, job_id, f"memory/{rank}/{phase}")
    op.drop_table("memory_points")
    op.drop_table("metric_points")


def _move(
    connection: sa.Connection,
    table: sa.Table,
    where: Sequence[sa.ColumnElement[bool]],
    values: Sequence[str],
    blocks: sa.Table,
    job_id: str,
    series: str,
) -> None:
    for rows in _pages(connection, table, where, values):
        columns = [list(column) for column in zip(*rows, strict=True)]
        is_float = len(values) == 1
        none = np.nan if is_float else -1
        records = Records(
            seqs=np.array(columns[0], np.int64),
            steps=np.array(columns[1], np.int64),
            attempts=np.array(columns[2], np.int64),
            times=np.array([as_microseconds(_aware(time)) for time in columns[3]], np.int64),
            values=np.array(
                [[none if value is None else value for value in column] for column in columns[4:]],
                np.float64 if is_float else np.int64,
            ),
        )
        cells: dict[str, Any] = {name: pack(column) for name, column in vars(records).items()}
        cells |= {"job_id": job_id, "series": series, "records": len(records)}
        cells |= {"first_seq": int(records.seqs[0]), "last_seq": int(records.seqs[-1])}
        cells |= {"first_step": int(records.steps.min()), "last_step": int(records.steps.max())}
        connection.execute(sa.insert(blocks), cells)


def _pages(
    connection: sa.Connection, table: sa.Table, where: Sequence[sa.ColumnElement[bool]], values: Sequence[str]
) -> Iterator[Sequence[sa.Row[Any]]]:
    names = ("seq", "step", "attempt", "time", *values)
    query = sa.select(*(table.c[name] for name in names)).where(*where).order_by(table.c.seq).limit(_RECORDS)
    after = 0
    while rows := connection.execute(query.where(table.c.seq > after)).all():
        yield rows
        after = rows[-1].seq


def _aware(time: datetime) -> datetime:
    """Return a time as PostgreSQL has it; SQLite keeps no time zone, and all times are in UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def downgrade() -> None:
    raise RuntimeError("telemetry in blocks can't become rows again: restore the copy of the store of before")
