"""Queries on metrics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.records import MAX_METRICS, StepRecord
from symadj.service.errors import InvalidParameterError
from symadj.service.store.step_range import EVERY_STEP, StepRange
from symadj.service.store.tables import Job, MetricPoint, MetricSeries

__all__ = [
    "Downsampled",
    "append",
    "buckets",
    "newest",
    "one_series",
    "points",
    "seconds_a_step",
    "series",
    "series_of",
]


# Of values before their sum, which may be infinite where their mean is not: PostgreSQL refuses that with an error.
# (Its avg does so from 1e154 on, since it sums squares as well.)
_SCALE = 2.0**-30


@dataclass(frozen=True)
class Downsampled:
    """Neighbouring points of a series, drawn together so that a spike stays visible.

    ``mean``, ``minimum`` and ``maximum`` are over the finite values, None without any; ``non_finite`` counts the
    others.
    """

    first_step: int
    last_step: int
    points: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    last: float
    non_finite: int


def append(session: Session, job: Job, attempt: int, steps: Sequence[StepRecord], *, replace: bool = True) -> None:
    """Store the metrics of steps. A step that was stored before (before a resume, say) is replaced, unless it is one
    of a later attempt: what comes late of an older one fills gaps alone. So does all, without ``replace``.

    ``job`` must be locked: its ``metric_seq`` is raised by one a value.

    Raises:
        InvalidParameterError: the job would have more metrics than a job may have.
    """
    if not steps:
        return
    by_name: dict[str, dict[int, tuple[datetime, float]]] = {}
    for item in steps:
        for name, value in item.metrics.items():
            by_name.setdefault(name, {})[item.step] = (item.time, value)
    _refuse_more_names(session, job.id, by_name)
    seq = job.metric_seq
    late = attempt < job.attempt
    for name, values in by_name.items():
        if late or not replace:
            for step in _stored(session, job.id, name, values, after=attempt if replace else -1):
                del values[step]
            if not values:
                continue
        replaced = session.scalars(
            sa.delete(MetricPoint)
            .where(MetricPoint.job_id == job.id, MetricPoint.name == name, MetricPoint.step.in_(values))
            .returning(MetricPoint.seq)
            .execution_options(synchronize_session=False)
        ).all()
        rows: list[dict[str, Any]] = []
        for step, (time, stored) in sorted(values.items()):
            seq += 1
            rows.append(
                {"job_id": job.id, "name": name, "seq": seq, "step": step}
                | {"time": time, "attempt": attempt, "value": stored}
            )
        session.execute(sa.insert(MetricPoint), rows)
        newest = rows[-1]
        known = session.get(MetricSeries, (job.id, name))
        if known is None:
            known = MetricSeries(job_id=job.id, name=name, points=0, last_step=newest["step"])
            known.last_value = newest["value"]
            session.add(known)
        known.points += len(rows) - len(replaced)
        known.last_seq = seq
        if not late and (replace or newest["step"] > known.last_step):
            known.last_step, known.last_value = newest["step"], newest["value"]
    job.metric_seq = seq


def _refuse_more_names(session: Session, job_id: str, names: Iterable[str]) -> None:
    known = set(session.scalars(sa.select(MetricSeries.name).where(MetricSeries.job_id == job_id)))
    for name in names:
        known.add(name)
        if len(known) > MAX_METRICS:
            raise InvalidParameterError(
                f"{name!r} would be one metric more than the {MAX_METRICS} that a job may have: use fewer names"
            )


def _stored(session: Session, job_id: str, name: str, steps: Iterable[int], *, after: int) -> Sequence[int]:
    """Return those of ``steps`` that an attempt after ``after`` has made."""
    return session.scalars(
        sa.select(MetricPoint.step).where(
            MetricPoint.job_id == job_id,
            MetricPoint.name == name,
            MetricPoint.step.in_(steps),
            MetricPoint.attempt > after,
        )
    ).all()


def series(session: Session, job_id: str) -> Sequence[MetricSeries]:
    """Return every metric of a job with its newest value."""
    return session.scalars(
        sa.select(MetricSeries).where(MetricSeries.job_id == job_id).order_by(MetricSeries.name)
    ).all()


def series_of(session: Session, job_ids: Collection[str]) -> dict[str, list[MetricSeries]]:
    """Return every metric of several jobs with its newest value, by job."""
    found: dict[str, list[MetricSeries]] = {job_id: [] for job_id in job_ids}
    if found:
        query = sa.select(MetricSeries).where(MetricSeries.job_id.in_(found)).order_by(MetricSeries.name)
        for row in session.scalars(query):
            found[row.job_id].append(row)
    return found


def one_series(session: Session, job_id: str, name: str) -> MetricSeries | None:
    """Return one metric of a job with its newest value."""
    return session.get(MetricSeries, (job_id, name))


def points(
    session: Session, job_id: str, name: str, *, after_seq: int, limit: int
) -> Sequence[sa.Row[int, int, datetime, float]]:
    """Return seq, step, time and value of the points with numbers above ``after_seq``, in the order of these."""
    return session.execute(
        sa.select(MetricPoint.seq, MetricPoint.step, MetricPoint.time, MetricPoint.value)
        .where(MetricPoint.job_id == job_id, MetricPoint.name == name, MetricPoint.seq > after_seq)
        .order_by(MetricPoint.seq)
        .limit(limit)
    ).all()


def newest(session: Session, job_id: str, name: str, *, limit: int) -> Sequence[float]:
    """Return the newest values of a series, at most ``limit``, the newest first."""
    return session.scalars(
        sa.select(MetricPoint.value)
        .where(MetricPoint.job_id == job_id, MetricPoint.name == name)
        .order_by(MetricPoint.seq.desc())
        .limit(limit)
    ).all()


def seconds_a_step(session: Session, job_id: str, name: str, *, attempt: int, steps: int) -> float | None:
    """Return the time that a step of an attempt took, over its newest ``steps`` values of a series and whatever was
    done between them; None where there are fewer than two."""
    rows = session.execute(
        sa.select(MetricPoint.step, MetricPoint.time, MetricPoint.attempt)
        .where(MetricPoint.job_id == job_id, MetricPoint.name == name)
        .order_by(MetricPoint.seq.desc())
        .limit(steps)
    ).all()
    own = [row for row in rows if row.attempt == attempt]
    if len(own) < 2 or own[0].step <= own[-1].step:
        return None
    taken: timedelta = own[0].time - own[-1].time
    return max(0.0, taken.total_seconds()) / float(own[0].step - own[-1].step)


def buckets(
    session: Session, job_id: str, name: str, *, count: int, steps: StepRange = EVERY_STEP
) -> list[Downsampled]:
    """Return steps of a series in at most ``count`` buckets of equally many rows, made by the database."""
    largest = 1.7976931348623157e308
    # As a plain number, of which NULL is not NaN but none.
    value = sa.type_coerce(MetricPoint.value, sa.Float())
    finite = sa.case((sa.func.abs(value) <= largest, value))
    numbered = (
        sa.select(
            MetricPoint.step,
            MetricPoint.value,
            finite.label("finite"),
            sa.func.ntile(count).over(order_by=MetricPoint.step).label("bucket"),
        )
        .where(MetricPoint.job_id == job_id, MetricPoint.name == name, *steps.conditions(MetricPoint.step))
        .subquery()
    )
    grouped = (
        sa.select(
            sa.func.min(numbered.c.step).label("first_step"),
            sa.func.max(numbered.c.step).label("last_step"),
            sa.func.count().label("points"),
            sa.func.min(numbered.c.finite).label("minimum"),
            sa.func.max(numbered.c.finite).label("maximum"),
            (sa.func.sum(numbered.c.finite * _SCALE) / sa.func.count(numbered.c.finite) / _SCALE).label("mean"),
            sa.func.count(numbered.c.finite).label("finite"),
        )
        .group_by(numbered.c.bucket)
        .subquery()
    )
    rows = session.execute(
        sa.select(grouped, MetricPoint.value.label("last"))
        .join(
            MetricPoint,
            sa.and_(
                MetricPoint.job_id == job_id,
                MetricPoint.name == name,
                MetricPoint.step == grouped.c.last_step,
            ),
        )
        .order_by(grouped.c.first_step)
    ).all()
    return [
        Downsampled(
            first_step=row.first_step,
            last_step=row.last_step,
            points=row.points,
            minimum=row.minimum,
            maximum=row.maximum,
            mean=row.mean,
            last=row.last,
            non_finite=row.points - row.finite,
        )
        for row in rows
    ]
