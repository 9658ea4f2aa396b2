"""Memory of a job summed up by rank and phase: from figures of the blocks in memory, to which what is new is added."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.contract.records import Phase
from symadj.service.store import blocks, memory
from symadj.service.store.step_range import EVERY_STEP, StepRange

__all__ = ["MemorySummaries"]

# Of all jobs together, at some 300 bytes each.
KEPT_BLOCKS = 30_000
# Blocks whose figures are computed at once: an array of more numbers would be mapped anew each time.
_TOGETHER = 8
_ABSENT = np.iinfo(np.int64).min
_WHERE = ("host", "device")


class MemorySummaries:
    """Sums up the memory of jobs; the figures of the last ones' blocks stay in memory, ``kept_blocks`` at most.

    Threads may use it at once; those that ask for the same job wait for each other.
    """

    def __init__(self, kept_blocks: int = KEPT_BLOCKS) -> None:
        self._kept_blocks = kept_blocks
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._lock = threading.Lock()

    def of_job(self, session: Session, job_id: str, steps: StepRange = EVERY_STEP) -> list[Mapping[str, Any]]:
        """Return, for each rank and phase, the highest peaks over the steps asked for.

        Keys: rank, phase, steps, first_step, last_step, {host,device}_peak_bytes, {host,device}_idle_bytes (the
        smallest that was held between steps) and {host,device}_above_idle_bytes (the highest of peak minus idle of the
        same step: what the phase itself needed). The first step of an attempt also pays for what is set up once
        (buffers of libraries, the optimiser's state): that is in the peak, but not in what a phase needs, unless it is
        the only step.
        """
        with self._lock:
            job = self._jobs.setdefault(job_id, _Job())
            self._jobs.move_to_end(job_id)
        with job.lock:
            job.update(session, job_id)
            found = job.summary(session, job_id, steps)
        with self._lock:
            while sum(job.size for job in self._jobs.values()) > self._kept_blocks:
                self._jobs.popitem(last=False)
        return found


@dataclass
class _Series:
    """What is known of the blocks of a series.

    Attributes:
        index: which they are, as :func:`blocks.index` returns it (n, 5).
        figures: of each block, over all of its records (n, 6): see :func:`_figures`.
        begun: of each block the attempts that have records in it, with the first step of each.
    """

    index: NDArray[np.int64]
    figures: NDArray[np.int64]
    begun: list[tuple[tuple[int, int], ...]]

    @classmethod
    def empty(cls) -> _Series:
        return cls(np.empty((0, 5), np.int64), np.empty((0, 6), np.int64), [])

    def updated(self, session: Session, job_id: str, name: str) -> _Series:
        """Return the series as it is now. A block has other numbers of records or other last ones if it has changed:
        a record never changes, and new ones have higher numbers."""
        index = blocks.index(session, job_id, name)
        figures = np.empty((len(index), 6), np.int64)
        begun: list[tuple[tuple[int, int], ...]] = [()] * len(index)
        places = np.searchsorted(self.index[:, 0], index[:, 0])
        there = np.flatnonzero(places < len(self.index))
        same = there[(self.index[places[there]] == index[there]).all(1)]
        figures[same] = self.figures[places[same]]
        for place, before in zip(same.tolist(), places[same].tolist(), strict=True):
            begun[place] = self.begun[before]
        new = np.delete(np.arange(len(index)), same)
        several: dict[int, NDArray[np.int64]] = {}
        of = None if len(new) == len(index) else index[new, 0]
        read = zip(new.tolist(), blocks.some(session, job_id, name, of, "attempts", "values"), strict=True)
        while some := list(islice(read, _TOGETHER)):
            parts = [values for _, (_, values) in some]
            starts = list(accumulate((part.shape[1] for part in parts[:-1]), initial=0))
            figures[[place for place, _ in some]] = _figures(np.concatenate(parts, -1), starts)
            for place, (attempts, _) in some:
                begun[place] = ((int(attempts[0]), int(index[place, 2])),)
                if (attempts != attempts[0]).any():
                    several[place] = attempts
        those = blocks.some(session, job_id, name, index[list(several), 0], "steps")
        for (place, attempts), (steps,) in zip(several.items(), those, strict=True):
            begun[place] = tuple((one, int(steps[attempts == one].min())) for one in np.unique(attempts).tolist())
        return _Series(index, figures, begun)


@dataclass
class _Job:
    """What is known of a job, by rank and phase in their order."""

    series: dict[tuple[int, Phase], _Series] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        """How many blocks are known, and one for the job itself: there may be many that have none."""
        return 1 + sum(len(series.begun) for series in self.series.values())

    def update(self, session: Session, job_id: str) -> None:
        """Read what is new in the store."""
        self.series = {
            place: self.series.get(place, _Series.empty()).updated(session, job_id, memory.series_name(*place))
            for place in memory.places(session, job_id)
        }

    def summary(self, session: Session, job_id: str, steps: StepRange) -> list[Mapping[str, Any]]:
        """Return the lines of :meth:`MemorySummaries.of_job`."""
        first_of: dict[int, int] = {}
        for attempt, step in chain.from_iterable(chain.from_iterable(item.begun for item in self.series.values())):
            first_of[attempt] = min(step, first_of.get(attempt, step))
        firsts = np.array(sorted(first_of.values()), np.int64)
        lines = (_line(session, job_id, place, series, firsts, steps) for place, series in self.series.items())
        return [line for line in lines if line is not None]


def _line(
    session: Session,
    job_id: str,
    place: tuple[int, Phase],
    series: _Series,
    firsts: NDArray[np.int64],
    steps: StepRange,
) -> Mapping[str, Any] | None:
    """Return what is known of the steps asked for, None where there are none."""
    first_seqs, _, low, high, records = series.index.T
    within = steps.mask(low) & steps.mask(high)
    has_first = np.searchsorted(firsts, low, "left") < np.searchsorted(firsts, high, "right")
    overlaps = np.ones(len(low), bool)
    if steps.first is not None:
        overlaps &= high >= steps.first
    if steps.last is not None:
        overlaps &= low <= steps.last
    # Of the others not all records count, or not alike.
    whole = within & ~has_first
    count, ends = int(records[whole].sum()), [*low[whole].tolist(), *high[whole].tolist()]
    warm = every = series.figures[whole].max(0, initial=_ABSENT)
    parts = first_seqs[overlaps & ~whole]
    for numbers, values in blocks.some(session, job_id, memory.series_name(*place), parts, "steps", "values"):
        asked = steps.mask(numbers)
        if not asked.any():
            continue
        numbers, values = numbers[asked], values[:, asked]
        count += len(numbers)
        ends += int(numbers.min()), int(numbers.max())
        every = np.maximum(every, _figures(values).max(0))
        warm = np.maximum(warm, _figures(values[:, ~np.isin(numbers, firsts)]).max(0, initial=_ABSENT))
    if not count:
        return None
    rank, phase = place
    line = {"rank": rank, "phase": phase, "steps": count, "first_step": min(ends), "last_step": max(ends)}
    for where, (peak, idle, with_first), (_, _, above) in zip(
        _WHERE, every.reshape(2, 3).tolist(), warm.reshape(2, 3).tolist(), strict=True
    ):
        line |= {
            f"{where}_peak_bytes": _known(peak),
            f"{where}_idle_bytes": None if idle == _ABSENT else -idle,
            f"{where}_above_idle_bytes": _known(with_first if above == _ABSENT else above),
        }
    return line


def _figures(values: NDArray[np.int64], starts: Sequence[int] = (0,)) -> NDArray[np.int64]:
    """Return the highest of host and device of each block (b, 6): the peak, minus the idle bytes, and the peak above
    these.

    Args:
        values: of records (4, n): idle and peak of the host, then of the device.
        starts: where each block begins among them (b,); without records there is none.
    """
    if not values.shape[1]:
        return np.empty((0, 6), np.int64)
    found = np.full((6, len(starts)), _ABSENT)
    for rows, (idle, peak) in zip(found.reshape(2, 3, -1), values.reshape(2, 2, -1), strict=True):
        has_idle, has_peak = idle != memory.NONE, peak != memory.NONE
        figures = ((peak, has_peak), (-idle, has_idle), (peak - idle, has_idle & has_peak))
        for row, (figure, known) in zip(rows, figures, strict=True):
            if known.any():  # a machine without a GPU has none of its own
                row[:] = np.maximum.reduceat(np.where(known, figure, _ABSENT), starts)
    return found.T


def _known(figure: int) -> int | None:
    return None if figure == _ABSENT else figure
