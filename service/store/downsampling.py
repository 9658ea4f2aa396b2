"""Whole series, downsampled: from copies in memory, to which only what is new in the store is added."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.store import metrics
from symadj.service.store.database import Database
from symadj.service.store.metrics import Downsampled
from symadj.service.store.step_range import EVERY_STEP, StepRange
from symadj.service.store.tables import MetricPoint

__all__ = ["Downsampler"]

# Of one series, at 16 bytes a point. A longer one the database draws itself, each time from its first point on.
MOST_POINTS = 4_000_000
KEPT_BYTES = 128 * 2**20
_SERIES_BYTES = 1000  # of one without points, about
_POINT = np.dtype([("seq", np.int64), ("step", np.int64), ("value", np.float64)])


@dataclass
class _Series:
    """All points of a series up to the number ``last_seq``, by step: ``steps`` (int64) and ``values`` (float64)."""

    last_seq: int = 0
    steps: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bytes(self) -> int:
        """What it takes of memory."""
        return self.steps.nbytes + self.values.nbytes + _SERIES_BYTES

    def update(self, session: Session, job_id: str, name: str) -> None:
        """Add what the store has after ``last_seq``.

        A point never changes and never goes but for a new one of the same step, which has a higher number. So what has
        higher numbers is all that is new, whatever was replaced.
        """
        new = _points_after(session, job_id, name, self.last_seq)
        if not len(new):
            return
        new = new[np.argsort(new["step"], kind="stable")]
        steps, values = new["step"], new["value"]
        if len(self.steps) and steps[0] <= self.steps[-1]:
            kept = ~np.isin(self.steps, steps, assume_unique=True)
            steps = np.concatenate([self.steps[kept], steps])
            order = np.argsort(steps, kind="stable")
            self.steps, self.values = steps[order], np.concatenate([self.values[kept], values])[order]
        else:
            self.steps, self.values = np.concatenate([self.steps, steps]), np.concatenate([self.values, values])
        self.last_seq = int(new["seq"].max())

    def buckets(self, count: int, wanted: StepRange) -> list[Downsampled]:
        """Return the wanted steps in at most ``count`` buckets of equally many points; the first ones have one more."""
        begin = 0 if wanted.first is None else int(np.searchsorted(self.steps, wanted.first))
        end = len(self.steps) if wanted.last is None else int(np.searchsorted(self.steps, wanted.last, side="right"))
        steps, values = self.steps[begin:end], self.values[begin:end]
        points = len(steps)
        if not points:
            return []
        each, more = divmod(points, count)
        sizes = np.full(min(count, points), each)
        sizes[:more] += 1
        ends = np.cumsum(sizes)
        starts = ends - sizes
        finite = np.isfinite(values)
        finite_counts = np.add.reduceat(finite, starts, dtype=np.int64)
        minimum = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
        maximum = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
        counted = np.where(finite, values, 0.0)
        divisors = np.maximum(finite_counts, 1)
        with np.errstate(over="ignore"):
            mean = np.add.reduceat(counted, starts) / divisors
        if not np.isfinite(mean).all():  # the sum of finite numbers need not be one
            shares = counted / np.repeat(divisors, sizes)
            mean = np.where(np.isfinite(mean), mean, np.add.reduceat(shares, starts))
        return [
            Downsampled(
                first_step=first_step,
                last_step=last_step,
                points=size,
                minimum=lowest if finite_count else None,
                maximum=highest if finite_count else None,
                mean=average if finite_count else None,
                last=last,
                non_finite=size - finite_count,
            )
            for first_step, last_step, size, finite_count, lowest, highest, average, last in zip(
                steps[starts].tolist(),
                steps[ends - 1].tolist(),
                sizes.tolist(),
                finite_counts.tolist(),
                minimum.tolist(),
                maximum.tolist(),
                mean.tolist(),
                values[ends - 1].tolist(),
                strict=True,
            )
        ]


class Downsampler:
    """Downsamples series of a store; the last ones stay in memory (``KEPT_BYTES``).

    Threads may use it at once; those that ask for the same series wait for each other.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._series: OrderedDict[tuple[str, str], _Series] = OrderedDict()
        self._lock = threading.Lock()

    def buckets(self, job_id: str, name: str, *, count: int, steps: StepRange = EVERY_STEP) -> list[Downsampled]:
        """Return steps of a series as it is now in at most ``count`` buckets of equally many points.

        Its first points have the lowest steps. There are none without such a job or metric.
        """
        with self._database.read_session() as session:
            known = metrics.one_series(session, job_id, name)
            if known is None:
                return []
            if known.points > MOST_POINTS:
                return metrics.buckets(session, job_id, name, count=count, steps=steps)
            with self._lock:
                series = self._series.setdefault((job_id, name), _Series())
                self._series.move_to_end((job_id, name))
            with series.lock:
                series.update(session, job_id, name)
                drawn = series.buckets(count, steps)
        self._forget_oldest()
        return drawn

    @property
    def bytes(self) -> int:
        """What the series in memory take of it."""
        return sum(series.bytes for series in self._series.values())

    def _forget_oldest(self) -> None:
        with self._lock:
            while self.bytes > KEPT_BYTES:
                self._series.popitem(last=False)


def _points_after(session: Session, job_id: str, name: str, after_seq: int) -> NDArray[np.void]:
    """Return all points with numbers above ``after_seq``, as ``_POINT``."""
    # NaN is stored as NULL; numpy takes the word for the number.
    value = sa.func.coalesce(sa.type_coerce(MetricPoint.value, sa.Float()), sa.literal_column("'NaN'"))
    query = sa.select(MetricPoint.seq, MetricPoint.step, value).where(
        MetricPoint.job_id == job_id, MetricPoint.name == name, MetricPoint.seq > after_seq
    )
    # The driver's own rows, one at a time: SQLAlchemy's, and lists of them, take longer to make than all else here.
    rows = cast(Iterable[tuple[int, int, float]], session.connection().execute(query).cursor)
    return np.fromiter(rows, _POINT)
