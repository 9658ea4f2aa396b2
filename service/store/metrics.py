"""Queries on metrics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.contract.records import MAX_METRICS, StepRecord
from symadj.service.errors import InvalidParameterError
from symadj.service.store import blocks
from symadj.service.store.columns import Records, as_datetime, as_microseconds
from symadj.service.store.step_range import StepRange
from symadj.service.store.tables import Job, MetricSeries

__all__ = [
    "MetricPoint",
    "append",
    "between",
    "by_step",
    "count",
    "name_of",
    "newest",
    "one_series",
    "points",
    "seconds_a_step",
    "series",
    "series_of",
    "values",
]


_METRIC = "metric/"


class MetricPoint(NamedTuple):
    """One value of one metric at one step. Many are made a second, and a tuple takes a third of a data class's time."""

    seq: int
    step: int
    time: datetime
    value: float


def append(session: Session, job: Job, attempt: int, steps: Sequence[StepRecord], *, replace: bool = True) -> None:
    """Store the metrics of steps. A step that was stored before (before a resume, say) is replaced, unless it is one
    of a later attempt: what comes late of an older one fills gaps alone. So does all, without ``replace``.

    ``job`` must be locked: its ``metric_seq`` is raised by one a value.

    Raises:
        InvalidParameterError: the job would have more metrics than a job may have.
    """
    if not steps:
        return
    by_name: dict[str, dict[int, tuple[int, float]]] = {}
    for item in steps:
        time = as_microseconds(item.time)
        for name, value in item.metrics.items():
            by_name.setdefault(name, {})[item.step] = (time, value)
    known_series = _known_series(session, job.id, by_name)
    late = attempt < job.attempt
    for name, values in by_name.items():
        numbers = np.array(sorted(values), np.int64)
        later_than = None if replace and not late else attempt if replace else -1
        free, removed = blocks.make_room(session, job.id, _series(name), numbers, later_than=later_than)
        numbers = numbers[free]
        if not len(numbers):
            continue
        stored = [values[step] for step in numbers.tolist()]
        records = Records(
            seqs=np.arange(len(numbers)) + job.metric_seq + 1,
            steps=numbers,
            times=np.array([time for time, _ in stored], np.int64),
            attempts=np.full(len(numbers), attempt),
            values=np.array([[value for _, value in stored]], np.float64),
        )
        blocks.extend(session, job.id, _series(name), records)
        job.metric_seq += len(numbers)
        last_step, last_value = int(numbers[-1]), stored[-1][1]
        known = known_series.get(name)
        if known is None:
            known = MetricSeries(job_id=job.id, name=name, points=0, last_step=last_step, last_value=last_value)
            session.add(known)
        known.points += len(numbers) - removed
        known.last_seq = job.metric_seq
        if not late and (replace or last_step > known.last_step):
            known.last_step, known.last_value = last_step, last_value


def _series(name: str) -> str:
    return f"{_METRIC}{name}"


def name_of(series: str) -> str | None:
    """Return the metric whose values a series has, None where it has memory."""
    return series.removeprefix(_METRIC) if series.startswith(_METRIC) else None


def _known_series(session: Session, job_id: str, names: Collection[str]) -> dict[str, MetricSeries]:
    """Return those of the metrics that the job has.

    Raises:
        InvalidParameterError: with the others it would have more than a job may have.
    """
    # Usually it has all of them: then it has no more for them.
    query = sa.select(MetricSeries).where(MetricSeries.job_id == job_id, MetricSeries.name.in_(names))
    known = {row.name: row for row in session.scalars(query)}
    if len(known) < len(names):
        of_job = sa.select(sa.func.count()).select_from(MetricSeries).where(MetricSeries.job_id == job_id)
        _refuse_more_names(session.execute(of_job).scalar_one(), [name for name in names if name not in known])
    return known


def _refuse_more_names(count: int, new: Iterable[str]) -> None:
    for name in new:
        count += 1
        if count > MAX_METRICS:
            raise InvalidParameterError(
                f"{name!r} would be one metric more than the {MAX_METRICS} that a job may have: use fewer names"
            )


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


def points(session: Session, job_id: str, name: str, *, after_seq: int, limit: int) -> list[MetricPoint]:
    """Return the points with numbers above ``after_seq``, in the order of these, ``limit`` at most."""
    found: list[MetricPoint] = []
    for records in blocks.after(session, job_id, _series(name), after_seq):
        found += _points(records[: limit - len(found)])
        if len(found) == limit:
            break
    return found


def between(
    session: Session, job_id: str, names: Collection[str], *, after_seq: int, up_to_seq: int
) -> list[tuple[str, MetricPoint]]:
    """Return the values of these metrics between two numbers, in order; the last one is included."""
    found = [
        (name, point)
        for name in names
        for point in points(session, job_id, name, after_seq=after_seq, limit=up_to_seq - after_seq)
        if point.seq <= up_to_seq
    ]
    return sorted(found, key=lambda item: item[1].seq)


def _points(records: Records) -> Iterator[MetricPoint]:
    times = map(as_datetime, records.times.tolist())
    return map(MetricPoint, records.seqs.tolist(), records.steps.tolist(), times, records.values[0].tolist())


def newest(session: Session, job_id: str, name: str, *, limit: int) -> list[float]:
    """Return the newest values of a series, at most ``limit``, the newest first."""
    records = blocks.newest(session, job_id, _series(name), limit)
    return [] if records is None else records.values[0, ::-1].tolist()


def seconds_a_step(session: Session, job_id: str, name: str, *, attempt: int, steps: int) -> float | None:
    """Return the time that a step of an attempt took, over its newest ``steps`` values of a series and whatever was
    done between them; None where there are fewer than two."""
    records = blocks.newest(session, job_id, _series(name), steps)
    if records is None:
        return None
    own = records[records.attempts == attempt]
    if len(own) < 2 or own.steps[-1] <= own.steps[0]:
        return None
    return max(0.0, float(own.times[-1] - own.times[0]) / 1e6) / float(own.steps[-1] - own.steps[0])


def values(
    session: Session, job_id: str, name: str, *, after_seq: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return steps and values (n,) of all points with numbers above ``after_seq``, in the order of the numbers."""
    steps, found = blocks.whole(session, job_id, _series(name), "steps", "values", after_seq=after_seq)
    return steps, found[0]


def count(session: Session, job_id: str, name: str, steps: StepRange) -> int:
    """Return how many points a series has in a range."""
    (found,) = blocks.whole(session, job_id, _series(name), "steps", steps=steps)
    return len(found)


def by_step(
    session: Session, job_id: str, name: str, *, after_step: int, most_blocks: int = 64
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Return steps and values (n,) of some of the first points with steps above ``after_step``, in the order of the
    steps; None where there are none. Some hundred points for each of ``most_blocks``."""
    found = blocks.by_step(session, job_id, _series(name), after_step=after_step, most_blocks=most_blocks)
    return None if found is None else (found[0], found[1][0])
