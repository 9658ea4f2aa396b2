"""Whole series, downsampled: from copies in memory, to which only what is new in the store is added."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.store import metrics
from symadj.service.store.database import Database
from symadj.service.store.step_range import EVERY_STEP, StepRange

__all__ = ["Downsampled", "Downsampler"]

# Of one series, at 16 bytes a point. A longer one is read anew each time, some at a time.
MOST_POINTS = 2_000_000
KEPT_BYTES = 48 * 2**20
_SERIES_BYTES = 1000  # of one without points, about

_Chunk = tuple[NDArray[np.int64], NDArray[np.float64]]


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

    def forget(self) -> None:
        """Begin anew."""
        self.last_seq, self.steps, self.values = 0, np.empty(0, np.int64), np.empty(0, np.float64)

    def update(self, session: Session, job_id: str, name: str, last_seq: int) -> None:
        """Add what the store has after the number that was the last one, and which is ``last_seq`` now.

        A point never changes and never goes but for a new one of the same step, which has a higher number. So what has
        higher numbers is all that is new, whatever was replaced.
        """
        steps, values = metrics.values(session, job_id, name, after_seq=self.last_seq)
        if not len(steps):
            return
        if (steps[1:] < steps[:-1]).any():
            order = np.argsort(steps, kind="stable")
            steps, values = steps[order], values[order]
        if not len(self.steps):
            self.steps, self.values = steps, values
        elif steps[0] <= self.steps[-1]:
            kept = ~np.isin(self.steps, steps, assume_unique=True)
            steps = np.concatenate([self.steps[kept], steps])
            order = np.argsort(steps, kind="stable")
            self.steps, self.values = steps[order], np.concatenate([self.values[kept], values])[order]
        else:
            self.steps, self.values = np.concatenate([self.steps, steps]), np.concatenate([self.values, values])
        self.last_seq = last_seq


class _Picture:
    """At most ``count`` buckets of ``points`` points, equally many in each; the first ones have one more."""

    def __init__(self, points: int, count: int) -> None:
        size = min(count, points)
        each, more = divmod(points, size)
        self.sizes = np.full(size, each)
        self.sizes[:more] += 1
        self._ends = np.cumsum(self.sizes)
        self._drawn = 0
        self._first = np.zeros(size, np.int64)
        self._last_step = np.zeros(size, np.int64)
        self._last = np.zeros(size)
        self._finite = np.zeros(size, np.int64)
        self._minimum = np.full(size, np.inf)
        self._maximum = np.full(size, -np.inf)
        self._mean = np.zeros(size)

    def add(self, steps: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Draw the next points, in the order of their steps. Those that came since all were counted are left out."""
        room = self._ends[-1] - self._drawn
        steps, values = steps[:room], values[:room]
        if not len(steps):
            return
        begin, end = self._drawn, self._drawn + len(steps)
        low, high = np.searchsorted(self._ends, [begin, end - 1], "right")
        these = slice(low, high + 1)
        begins = np.maximum((self._ends - self.sizes)[these], begin)
        starts, ends = begins - begin, np.minimum(self._ends[these], end) - begin
        finite = np.isfinite(values)
        counts = np.add.reduceat(finite, starts, dtype=np.int64)
        all_finite = bool(finite.all())
        lowest = values if all_finite else np.where(finite, values, np.inf)
        highest = values if all_finite else np.where(finite, values, -np.inf)
        counted = values if all_finite else np.where(finite, values, 0.0)
        divisors = np.maximum(counts, 1)
        with np.errstate(over="ignore"):
            mean = np.add.reduceat(counted, starts) / divisors
        if not np.isfinite(mean).all():  # the sum of finite numbers need not be one
            shares = counted / np.repeat(divisors, ends - starts)
            mean = np.where(np.isfinite(mean), mean, np.add.reduceat(shares, starts))
        together = np.maximum(self._finite[these] + counts, 1)
        self._mean[these] = self._mean[these] * (self._finite[these] / together) + mean * (counts / together)
        self._finite[these] += counts
        self._minimum[these] = np.minimum(self._minimum[these], np.minimum.reduceat(lowest, starts))
        self._maximum[these] = np.maximum(self._maximum[these], np.maximum.reduceat(highest, starts))
        new = begins == (self._ends - self.sizes)[these]
        self._first[these] = np.where(new, steps[starts], self._first[these])
        self._last_step[these], self._last[these] = steps[ends - 1], values[ends - 1]
        self._drawn = end

    def buckets(self) -> list[Downsampled]:
        """Return what was drawn."""
        return [
            Downsampled(
                first_step=first_step,
                last_step=last_step,
                points=size,
                minimum=lowest if finite else None,
                maximum=highest if finite else None,
                mean=average if finite else None,
                last=last,
                non_finite=size - finite,
            )
            for first_step, last_step, size, finite, lowest, highest, average, last in zip(
                self._first.tolist(),
                self._last_step.tolist(),
                self.sizes.tolist(),
                self._finite.tolist(),
                self._minimum.tolist(),
                self._maximum.tolist(),
                self._mean.tolist(),
                self._last.tolist(),
                strict=True,
            )
        ]


def _draw(chunks: Iterable[_Chunk], points: int, count: int) -> list[Downsampled]:
    if not points:
        return []
    picture = _Picture(points, count)
    for steps, values in chunks:
        picture.add(steps, values)
    return picture.buckets()


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
                points = known.points if steps == EVERY_STEP else metrics.count(session, job_id, name, steps)
                return _draw(_chunks(session, job_id, name, steps), points, count)
            with self._lock:
                series = self._series.setdefault((job_id, name), _Series())
                self._series.move_to_end((job_id, name))
            with series.lock:
                if known.points < len(series.steps):  # it was thinned
                    series.forget()
                series.update(session, job_id, name, known.last_seq)
                part = steps.within(series.steps)
                found = series.steps[part], series.values[part]
            drawn = _draw([found], len(found[0]), count)
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


def _chunks(session: Session, job_id: str, name: str, steps: StepRange) -> Iterator[_Chunk]:
    """Yield a part of a series in the order of its steps, some points at a time."""
    after = -1 if steps.first is None else steps.first - 1
    while (chunk := metrics.by_step(session, job_id, name, after_step=after)) is not None:
        part = steps.within(chunk[0])
        yield chunk[0][part], chunk[1][part]
        after = int(chunk[0][-1])
        if steps.last is not None and after >= steps.last:
            return
