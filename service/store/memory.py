"""Queries on memory telemetry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from symadj.service.contract.records import MemoryRecord, Phase
from symadj.service.store.step_range import EVERY_STEP, StepRange
from symadj.service.store.tables import Job, MemoryPoint

__all__ = ["append", "points", "summary"]


def append(session: Session, job: Job, attempt: int, records: Sequence[MemoryRecord], *, replace: bool = True) -> None:
    """Store memory records. A (rank, phase, step) that was stored before is replaced, unless by a later attempt.

    Without ``replace`` nothing is replaced.

    ``job`` must be locked: its ``memory_seq`` is raised by one a record.
    """
    newest = {(record.rank, record.phase, record.step): record for record in records}
    if newest and (attempt < job.attempt or not replace):
        for row in session.execute(
            sa.select(MemoryPoint.rank, MemoryPoint.phase, MemoryPoint.step).where(
                MemoryPoint.job_id == job.id,
                MemoryPoint.step.in_({record.step for record in records}),
                MemoryPoint.attempt > (attempt if replace else -1),
            )
        ):
            newest.pop((row.rank, row.phase, row.step), None)
    if not newest:
        return
    places: dict[tuple[int, Phase], list[int]] = {}
    for rank, phase, step in newest:
        places.setdefault((rank, phase), []).append(step)
    for (rank, phase), steps in places.items():
        session.execute(
            sa.delete(MemoryPoint)
            .where(
                MemoryPoint.job_id == job.id,
                MemoryPoint.rank == rank,
                MemoryPoint.phase == phase,
                MemoryPoint.step.in_(steps),
            )
            .execution_options(synchronize_session=False)
        )
    rows = []
    for record in newest.values():
        job.memory_seq += 1
        rows.append(
            {
                "job_id": job.id,
                "seq": job.memory_seq,
                "attempt": attempt,
                **record.model_dump(exclude={"kind"}),
            }
        )
    session.execute(sa.insert(MemoryPoint), rows)
    job.host_peak_bytes = _highest(job.host_peak_bytes, *(record.host_peak_bytes for record in newest.values()))
    job.device_peak_bytes = _highest(job.device_peak_bytes, *(record.device_peak_bytes for record in newest.values()))


def _highest(*peaks: int | None) -> int | None:
    return max((peak for peak in peaks if peak is not None), default=None)


def summary(session: Session, job_id: str, steps: StepRange = EVERY_STEP) -> Sequence[sa.RowMapping]:
    """Return, for each rank and phase, the highest peaks over the steps asked for.

    Columns: rank, phase, steps, first_step, last_step, {host,device}_peak_bytes, {host,device}_idle_bytes (the
    smallest that was held between steps) and {host,device}_above_idle_bytes (the highest of peak minus idle of the same
    step: what the phase itself needed). The first step of an attempt also pays for what is set up once (buffers of
    libraries, the optimiser's state): that is in the peak, but not in what a phase needs, unless it is the only step.
    """
    firsts = sa.select(sa.func.min(MemoryPoint.step)).where(MemoryPoint.job_id == job_id).group_by(MemoryPoint.attempt)
    warm = MemoryPoint.step.not_in(firsts)
    columns: list[sa.ColumnElement[Any] | InstrumentedAttribute[Any]] = [
        MemoryPoint.rank,
        MemoryPoint.phase,
        sa.func.count().label("steps"),
        sa.func.min(MemoryPoint.step).label("first_step"),
        sa.func.max(MemoryPoint.step).label("last_step"),
    ]
    for idle, peak, where in (
        (MemoryPoint.host_idle_bytes, MemoryPoint.host_peak_bytes, "host"),
        (MemoryPoint.device_idle_bytes, MemoryPoint.device_peak_bytes, "device"),
    ):
        columns += [
            sa.func.max(peak).label(f"{where}_peak_bytes"),
            sa.func.min(idle).label(f"{where}_idle_bytes"),
            sa.func.coalesce(sa.func.max(sa.case((warm, peak - idle))), sa.func.max(peak - idle)).label(
                f"{where}_above_idle_bytes"
            ),
        ]
    in_time = sa.case({"forward": 0, "backward": 1}, value=MemoryPoint.phase, else_=2)
    query = (
        sa.select(*columns)
        .where(MemoryPoint.job_id == job_id)
        .group_by(MemoryPoint.rank, MemoryPoint.phase)
        .order_by(MemoryPoint.rank, in_time)
    )
    query = query.where(*steps.conditions(MemoryPoint.step))
    return session.execute(query).mappings().all()


def points(
    session: Session,
    job_id: str,
    *,
    rank: int | None,
    phase: str | None,
    after_seq: int,
    limit: int,
) -> Sequence[MemoryPoint]:
    """Return records with numbers above ``after_seq``, in the order in which they were stored."""
    query = (
        sa.select(MemoryPoint)
        .where(MemoryPoint.job_id == job_id, MemoryPoint.seq > after_seq)
        .order_by(MemoryPoint.seq)
        .limit(limit)
    )
    if rank is not None:
        query = query.where(MemoryPoint.rank == rank)
    if phase is not None:
        query = query.where(MemoryPoint.phase == phase)
    return session.scalars(query).all()
