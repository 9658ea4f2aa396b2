"""Queries on memory telemetry."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.contract.records import MemoryRecord, Phase
from symadj.service.store import blocks
from symadj.service.store.columns import Records, as_datetime, as_microseconds
from symadj.service.store.tables import Job

__all__ = ["NONE", "MemoryPoint", "append", "figures", "places", "points", "series_name"]

_FIGURES = ("host_idle_bytes", "host_peak_bytes", "device_idle_bytes", "device_peak_bytes")
_PHASES: tuple[Phase, ...] = get_args(Phase)  # in the order of their time
NONE = -1  # of a figure that the platform does not give
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
        free, _ = blocks.make_room(session, job.id, series_name(*place), steps, later_than=later_than)
        fits = set(steps[free].tolist())
        stored.append((place, [record for step, record in by_step.items() if step in fits]))
    # Numbered step by step, not place by place: they are read in the order of their numbers.
    turns = sorted((turn, index) for index, (_, some) in enumerate(stored) for turn in range(len(some)))
    seqs: list[list[int]] = [[] for _ in stored]
    for seq, (_, index) in enumerate(turns, start=job.memory_seq + 1):
        seqs[index].append(seq)
    for (place, some), numbers in zip(stored, seqs, strict=True):
        if some:
            blocks.extend(session, job.id, series_name(*place), _records(some, numbers, attempt))
            job.host_peak_bytes = _highest(job.host_peak_bytes, *(record.host_peak_bytes for record in some))
            job.device_peak_bytes = _highest(job.device_peak_bytes, *(record.device_peak_bytes for record in some))
    job.memory_seq += sum(map(len, seqs))


def _records(records: Sequence[MemoryRecord], seqs: Sequence[int], attempt: int) -> Records:
    figures = [[NONE if (value := getattr(item, name)) is None else value for item in records] for name in _FIGURES]
    return Records(
        seqs=np.array(seqs, np.int64),
        steps=np.array([record.step for record in records], np.int64),
        times=np.array([as_microseconds(record.time) for record in records], np.int64),
        attempts=np.full(len(records), attempt),
        values=np.array(figures, np.int64),
    )


def series_name(rank: int, phase: Phase) -> str:
    """Return the series in which the records of a rank in a phase stand."""
    return f"{_SERIES}{rank}/{phase}"


def places(session: Session, job_id: str) -> list[tuple[int, Phase]]:
    """Return the ranks and phases of which a job has records, in their order."""
    found = []
    for name in blocks.series_of(session, job_id, _SERIES):
        rank, phase = name.removeprefix(_SERIES).split("/")
        found.append((int(rank), _PHASES.index(phase)))
    return [(rank, _PHASES[phase]) for rank, phase in sorted(found)]


def _highest(*peaks: int | None) -> int | None:
    return max((peak for peak in peaks if peak is not None), default=None)


def figures(records: Records) -> NDArray[np.float64]:
    """Return by which records of a series stand out (6, n): its figures, and what the phase needed of host and device;
    NaN where there is none, and of an attempt's first step, which counts for no need."""
    values = np.where(records.values == NONE, np.nan, records.values)
    needed = values[1::2] - values[::2]
    needed[:, np.concatenate([[0], np.flatnonzero(np.diff(records.attempts)) + 1])] = np.nan
    return np.concatenate([values, needed])


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
    wanted = [place for place in places(session, job_id) if rank in (None, place[0]) and phase in (None, place[1])]
    found = heapq.merge(*(_points(session, job_id, place, after_seq) for place in wanted), key=lambda point: point.seq)
    return list(islice(found, limit))


def _points(session: Session, job_id: str, place: tuple[int, Phase], after_seq: int) -> Iterator[MemoryPoint]:
    rank, phase = place
    for some in blocks.after(session, job_id, series_name(rank, phase), after_seq):
        for seq, step, time, attempt, *figures in zip(
            *(some.seqs.tolist(), some.steps.tolist(), some.times.tolist(), some.attempts.tolist()),
            *some.values.tolist(),
            strict=True,
        ):
            known = [None if value == NONE else value for value in figures]
            yield MemoryPoint(seq, step, rank, phase, as_datetime(time), attempt, *known)
