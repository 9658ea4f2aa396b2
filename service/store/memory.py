"""Queries on memory telemetry."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.contract.records import MemoryRecord, Phase
from symadj.service.store import blocks
from symadj.service.store.columns import Records, as_datetime, as_microseconds
from symadj.service.store.step_range import EVERY_STEP, StepRange
from symadj.service.store.tables import Job

__all__ = ["MemoryPoint", "append", "figures", "points", "summary"]

_FIGURES = ("host_idle_bytes", "host_peak_bytes", "device_idle_bytes", "device_peak_bytes")
_PHASES: tuple[Phase, ...] = get_args(Phase)  # in the order of their time
_NONE = -1  # of a figure that the platform does not give
_SERIES = "memory/"


@dataclass(frozen=True)
class MemoryPoint:
    """Memory of one rank in one phase of one step, in bytes."""

    seq: int
    step: int
    rank: int
    phase: Phase
    time: datetime
    attempt: int
    host_idle_bytes: int | None
    host_peak_bytes: int | None
    device_idle_bytes: int | None
    device_peak_bytes: int | None


def append(session: Session, job: Job, attempt: int, records: Sequence[MemoryRecord], *, replace: bool = True) -> None:
    """Store memory records. A (rank, phase, step) that was stored before is replaced, unless by a later attempt.

    Without ``replace`` nothing is replaced.

    ``job`` must be locked: its ``memory_seq`` is raised by one a record.
    """
    by_place: dict[tuple[int, Phase], dict[int, MemoryRecord]] = {}
    for record in records:
        by_place.setdefault((record.rank, record.phase), {})[record.step] = record
    later_than = None if replace and attempt >= job.attempt else attempt if replace else -1
    stored: list[tuple[tuple[int, Phase], list[MemoryRecord]]] = []
    for place, by_step in by_place.items():
        steps = np.array(sorted(by_step), np.int64)
        free, _ = blocks.make_room(session, job.id, _series(*place), steps, later_than=later_than)
        fits = set(steps[free].tolist())
        stored.append((place, [record for step, record in by_step.items() if step in fits]))
    # Numbered step by step, not place by place: they are read in the order of their numbers.
    turns = sorted((turn, index) for index, (_, some) in enumerate(stored) for turn in range(len(some)))
    seqs: list[list[int]] = [[] for _ in stored]
    for seq, (_, index) in enumerate(turns, start=job.memory_seq + 1):
        seqs[index].append(seq)
    for (place, some), numbers in zip(stored, seqs, strict=True):
        if some:
            blocks.extend(session, job.id, _series(*place), _records(some, numbers, attempt))
            job.host_peak_bytes = _highest(job.host_peak_bytes, *(record.host_peak_bytes for record in some))
            job.device_peak_bytes = _highest(job.device_peak_bytes, *(record.device_peak_bytes for record in some))
    job.memory_seq += sum(map(len, seqs))


def _records(records: Sequence[MemoryRecord], seqs: Sequence[int], attempt: int) -> Records:
    figures = [[_NONE if (value := getattr(item, name)) is None else value for item in records] for name in _FIGURES]
    return Records(
        seqs=np.array(seqs, np.int64),
        steps=np.array([record.step for record in records], np.int64),
        times=np.array([as_microseconds(record.time) for record in records], np.int64),
        attempts=np.full(len(records), attempt),
        values=np.array(figures, np.int64),
    )


def _series(rank: int, phase: Phase) -> str:
    return f"{_SERIES}{rank}/{phase}"


def _places(session: Session, job_id: str) -> list[tuple[int, Phase]]:
    """Return the ranks and phases of which a job has records, in their order."""
    found = []
    for name in blocks.series_of(session, job_id, _SERIES):
        rank, phase = name.removeprefix(_SERIES).split("/")
        found.append((int(rank), _PHASES.index(phase)))
    return [(rank, _PHASES[phase]) for rank, phase in sorted(found)]


def _highest(*peaks: int | None) -> int | None:
    return max((peak for peak in peaks if peak is not None), default=None)


def summary(session: Session, job_id: str, steps: StepRange = EVERY_STEP) -> list[Mapping[str, Any]]:
    """Return, for each rank and phase, the highest peaks over the steps asked for.

    Keys: rank, phase, steps, first_step, last_step, {host,device}_peak_bytes, {host,device}_idle_bytes (the
    smallest that was held between steps) and {host,device}_above_idle_bytes (the highest of peak minus idle of the same
    step: what the phase itself needed). The first step of an attempt also pays for what is set up once (buffers of
    libraries, the optimiser's state): that is in the peak, but not in what a phase needs, unless it is the only step.
    """
    first_of: dict[int, int] = {}
    found = []
    for place in _places(session, job_id):
        numbers, attempts, values = blocks.whole(session, job_id, _series(*place), "steps", "attempts", "values")
        runs = np.concatenate([[0], np.flatnonzero(np.diff(attempts)) + 1])
        for attempt, first in zip(attempts[runs].tolist(), np.minimum.reduceat(numbers, runs).tolist(), strict=True):
            first_of[attempt] = min(first, first_of.get(attempt, first))
        asked = steps.mask(numbers)
        if asked.any():
            found.append((place, numbers[asked], values[:, asked]))
    firsts = np.array(sorted(first_of.values()), np.int64)
    return [
        {"rank": rank, "phase": phase, "steps": len(numbers)}
        | {"first_step": int(numbers.min()), "last_step": int(numbers.max())}
        | _peaks("host", values[0], values[1], warm := ~np.isin(numbers, firsts))
        | _peaks("device", values[2], values[3], warm)
        for (rank, phase), numbers, values in found
    ]


def figures(records: Records) -> NDArray[np.float64]:
    """Return by which records of a series stand out (6, n): its figures, and what the phase needed of host and device;
    NaN where there is none, and of an attempt's first step, which counts for no need."""
    values = np.where(records.values == _NONE, np.nan, records.values)
    needed = values[1::2] - values[::2]
    needed[:, np.concatenate([[0], np.flatnonzero(np.diff(records.attempts)) + 1])] = np.nan
    return np.concatenate([values, needed])


def _peaks(where: str, idle: NDArray[np.int64], peak: NDArray[np.int64], warm: NDArray[np.bool_]) -> dict[str, Any]:
    measured = (idle != _NONE) & (peak != _NONE)
    needed = peak - idle
    return {
        f"{where}_peak_bytes": _most(peak[peak != _NONE]),
        f"{where}_idle_bytes": None if (held := _most(-idle[idle != _NONE])) is None else -held,
        f"{where}_above_idle_bytes": _most(needed[measured & warm] if (measured & warm).any() else needed[measured]),
    }


def _most(values: NDArray[np.int64]) -> int | None:
    return int(values.max()) if len(values) else None


def points(
    session: Session,
    job_id: str,
    *,
    rank: int | None,
    phase: str | None,
    after_seq: int,
    limit: int,
) -> list[MemoryPoint]:
    """Return records with numbers above ``after_seq``, in the order in which they were stored, ``limit`` at most."""
    places = [place for place in _places(session, job_id) if rank in (None, place[0]) and phase in (None, place[1])]
    found = heapq.merge(*(_points(session, job_id, place, after_seq) for place in places), key=lambda point: point.seq)
    return list(islice(found, limit))


def _points(session: Session, job_id: str, place: tuple[int, Phase], after_seq: int) -> Iterator[MemoryPoint]:
    rank, phase = place
    for some in blocks.after(session, job_id, _series(rank, phase), after_seq):
        for seq, step, time, attempt, *figures in zip(
            *(some.seqs.tolist(), some.steps.tolist(), some.times.tolist(), some.attempts.tolist()),
            *some.values.tolist(),
            strict=True,
        ):
            known = [None if value == _NONE else value for value in figures]
            yield MemoryPoint(seq, step, rank, phase, as_datetime(time), attempt, *known)
