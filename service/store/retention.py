"""What is kept of the telemetry of jobs that ended long ago.

A job whose turn has come is marked, with an event and an entry of the audit log, before anything is removed; then its
blocks go in pieces, between which others may write. Whoever dies in between leaves a mark that says what is to be done.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from symadj.service.contract.states import TERMINAL
from symadj.service.identifiers import new_audit_id
from symadj.service.store import blocks, events, memory, metrics
from symadj.service.store.columns import Records
from symadj.service.store.tables import AuditEntry, DeletedJob, Job, JobLabel, MetricSeries, SinkPosition

__all__ = ["KEEP", "REMOVED", "THINNED", "THINNING", "WHOLE", "Policy", "due", "is_thinned", "remove", "thin_some"]

# The label of jobs that keep all, whatever the policy is.
KEEP = "keep"
# Of ``Job.telemetry``: it was short enough; it is being thinned, in pieces; that is done; it was removed.
WHOLE, THINNING, THINNED, REMOVED = "whole", "thinning", "thinned", "removed"
_ACTOR = "dispatcher"


def is_thinned(job: Job) -> bool:
    """Return whether records of a job were removed, or are being removed."""
    return job.telemetry not in {None, WHOLE}


@dataclass(frozen=True)
class Policy:
    """Of ended jobs.

    Attributes:
        keep: how long after its end the telemetry of a job is kept; None: for ever.
        thin: how long after it all of it is kept; None: for as long as any.
        thin_records: that a longer series has left then, at most.
        keep_last: the jobs of each owner that ended last and keep all.
    """

    keep: timedelta | None
    thin: timedelta | None
    thin_records: int
    keep_last: int


def due(
    session: Session, policy: Policy, *, now: datetime, most: int, besides: Collection[str] = ()
) -> Sequence[tuple[str, str]]:
    """Return some jobs whose turn has come, those that ended first before others, with what they are to become.

    A job with the label ``keep`` is none of them, nor one that a sink has not been told of whole, nor any ``besides``.
    """
    found: list[tuple[str, str]] = []
    for age, marks, to in (
        (policy.keep, (None, WHOLE, THINNING, THINNED), REMOVED),
        (policy.thin, (THINNING, None), THINNED),
    ):
        if age is None:
            continue
        for mark in marks:
            if len(found) < most:
                query = _ended_before(now - age, mark, policy.keep_last).where(Job.id.not_in(besides))
                query = query.limit(most - len(found))
                known = {job_id for job_id, _ in found}
                found += [(job_id, to) for job_id in session.scalars(query) if job_id not in known]
    return found


def _ended_before(time: datetime, mark: str | None, keep_last: int) -> sa.Select[str]:
    pinned = sa.exists().where(JobLabel.job_id == Job.id, JobLabel.name == KEEP)
    followed = sa.exists().where(SinkPosition.job_id == Job.id, sa.not_(SinkPosition.ended))
    query = (
        sa.select(Job.id)
        .where(Job.telemetry == mark, Job.finished_at < time, Job.state.in_(TERMINAL), ~pinned, ~followed)
        .where(sa.or_(Job.metric_seq > 0, Job.memory_seq > 0))
        .order_by(Job.finished_at, Job.id)
    )
    if not keep_last:
        return query
    place = sa.func.row_number().over(partition_by=Job.owner, order_by=(Job.finished_at.desc(), Job.id.desc()))
    ended = sa.select(Job.id, place.label("place")).where(Job.state.in_(TERMINAL)).subquery()
    return query.where(Job.id.in_(sa.select(ended.c.id).where(ended.c.place > keep_last)))


def remove(session: Session, job: Job, policy: Policy) -> None:
    """Remove the telemetry of a job, whose row is locked; its newest values, its result and its files stay.

    The blocks themselves go with those of deleted jobs (``blocks.delete_some``).
    """
    assert policy.keep is not None
    if job.telemetry == REMOVED:  # another dispatcher was first
        return
    held = sum(blocks.records_by_series(session, job.id).values())
    days = policy.keep / timedelta(days=1)
    message = f"Its telemetry was removed ({held:,} records): it ended more than {days:g} days ago."
    _note(session, job, f"SYMADJ_TELEMETRY_KEEP_DAYS={days:g}", "telemetry_removed", message, {"records": held})
    job.telemetry = REMOVED
    session.execute(sa.update(MetricSeries).where(MetricSeries.job_id == job.id).values(points=0))
    session.merge(DeletedJob(job_id=job.id))


def thin_some(session: Session, job: Job, policy: Policy) -> None:
    """Thin one series of a job, whose row is locked; it is marked as thinned when there is none left.

    Of every stretch of steps the lowest and the highest value stay, and one that is no number; of memory, the highest
    of what a phase needed too.
    """
    assert policy.thin is not None
    if job.telemetry not in {None, THINNING}:  # another dispatcher was first
        return
    long = {
        series: held for series, held in blocks.records_by_series(session, job.id).items() if held > policy.thin_records
    }
    if job.telemetry is None and long:
        days = policy.thin / timedelta(days=1)
        message = (
            f"{len(long)} of its series are thinned to {policy.thin_records:,} records each: it ended more than "
            f"{days:g} days ago."
        )
        data = {"series": len(long), "records": sum(long.values()), "thin_records": policy.thin_records}
        _note(session, job, f"SYMADJ_TELEMETRY_THIN_DAYS={days:g}", "telemetry_thinned", message, data)
        job.telemetry = THINNING
    if not long:
        job.telemetry = WHOLE if job.telemetry is None else THINNED
        return
    series = min(long)
    found = Records(*blocks.whole(session, job.id, series, "seqs", "steps", "times", "attempts", "values"))
    kept = found[_kept(found, policy.thin_records)]
    blocks.replace(session, job.id, series, kept)
    if (name := metrics.name_of(series)) is not None:
        known = metrics.one_series(session, job.id, name)
        if known is not None:
            known.points = len(kept)


def _kept(found: Records, most: int) -> NDArray[np.bool_]:
    """Return which of the records (n,) stay, ``most`` at most."""
    rows = found.values if found.values.dtype == np.float64 else memory.figures(found)
    order = np.argsort(found.steps, kind="stable")
    rows = rows[:, order]
    finite = np.isfinite(rows)
    kept = np.zeros(len(found), bool)
    kept[[0, -1]] = True
    stretches = max(1, (most - 2) // (3 * len(rows)))
    edges = np.linspace(0, len(found), stretches + 1).astype(int)
    for start, end in pairwise(edges.tolist()):
        for row, known in zip(rows[:, start:end], finite[:, start:end], strict=True):
            if known.any():
                kept[start + np.where(known, row, np.inf).argmin()] = True
                kept[start + np.where(known, row, -np.inf).argmax()] = True
            if not known.all():
                kept[start + known.argmin()] = True
    mask = np.zeros(len(found), bool)
    mask[order] = kept
    return mask


def _note(session: Session, job: Job, policy: str, name: str, message: str, data: dict[str, Any]) -> None:
    """Write down what is done to a job and why: an event, and an entry of the audit log, which outlives the job."""
    events.append(session, job, actor=_ACTOR, name=name, message=message, data={"policy": policy} | data)
    session.add(
        AuditEntry(
            id=new_audit_id(),
            time=datetime.now(UTC),
            who=_ACTOR,
            method=name.removeprefix("telemetry_").upper(),
            route=policy,
            target=job.id,
            status=200,
            request_id=f"{job.id}-{name}"[:64],
        )
    )
