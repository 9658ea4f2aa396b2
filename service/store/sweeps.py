"""Queries on sweeps and their trials."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from symadj.service.contract.states import JobState, SweepState, TrialState
from symadj.service.errors import NotFoundError
from symadj.service.store import cursors
from symadj.service.store.cursors import Page
from symadj.service.store.tables import Job, MetricSeries, Sweep, SweepTrial

__all__ = [
    "OpenTrial",
    "add",
    "add_trial",
    "count_running",
    "delete",
    "find",
    "find_locked",
    "get",
    "lock",
    "open_trials",
    "page",
    "trials",
    "trials_of",
    "unsettled",
]


@dataclass(frozen=True)
class OpenTrial:
    """A trial that has not ended, and what its job's row and its metric say now; no job: it was deleted."""

    trial: SweepTrial
    job: Job | None
    metric_seq: int


def add(session: Session, sweep: Sweep) -> None:
    """Store a new sweep."""
    session.add(sweep)
    session.flush()


def add_trial(session: Session, trial: SweepTrial) -> None:
    """Store a new trial, whose number no other trial of the sweep may have."""
    session.add(trial)
    session.flush()


def find(session: Session, sweep_id: str) -> Sweep | None:
    """Return a sweep, or None."""
    return session.get(Sweep, sweep_id)


def get(session: Session, sweep_id: str) -> Sweep:
    """Return a sweep.

    Raises:
        NotFoundError: there is none of this id.
    """
    sweep = find(session, sweep_id)
    if sweep is None:
        raise _unknown(sweep_id)
    return sweep


def find_locked(session: Session, sweep_id: str) -> Sweep | None:
    """Return a sweep as ``lock`` does, or None."""
    return session.get(Sweep, sweep_id, with_for_update=True, populate_existing=True)


def lock(session: Session, sweep_id: str) -> Sweep:
    """Return a sweep and hold its row until the session commits: who holds it decides about its trials.

    Raises:
        NotFoundError: there is none of this id.
    """
    sweep = find_locked(session, sweep_id)
    if sweep is None:
        raise _unknown(sweep_id)
    return sweep


def _unknown(sweep_id: str) -> NotFoundError:
    return NotFoundError(f"there is no sweep {sweep_id!r}")


def page(
    session: Session,
    *,
    states: Collection[SweepState] = (),
    owner: str | None = None,
    limit: int,
    after: str | None = None,
) -> Page[Sweep]:
    """Return sweeps, newest first, in one of ``states`` and of the owner asked for."""
    query = sa.select(Sweep)
    if states:
        query = query.where(Sweep.state.in_(states))
    if owner is not None:
        query = query.where(Sweep.owner == owner)
    return cursors.page(session, query, Sweep.created_at, limit=limit, after=after)


def unsettled(session: Session) -> Sequence[str]:
    """Return the ids of the sweeps about which something may be to decide, the oldest first."""
    still_open = sa.select(SweepTrial.sweep_id).where(SweepTrial.state == TrialState.OPEN)
    return session.scalars(
        sa.select(Sweep.id)
        .where(sa.or_(Sweep.state == SweepState.RUNNING, Sweep.id.in_(still_open)))
        .order_by(Sweep.created_at, Sweep.id)
    ).all()


def count_running(session: Session, owner: str) -> int:
    """Return how many sweeps of an owner begin trials."""
    query = sa.select(sa.func.count()).select_from(Sweep)
    return session.execute(query.where(Sweep.owner == owner, Sweep.state == SweepState.RUNNING)).scalar_one()


def trials(session: Session, sweep_id: str) -> Sequence[SweepTrial]:
    """Return the trials of a sweep, the first one first."""
    return session.scalars(
        sa.select(SweepTrial).where(SweepTrial.sweep_id == sweep_id).order_by(SweepTrial.number)
    ).all()


def trials_of(session: Session, sweep_ids: Collection[str]) -> dict[str, list[tuple[SweepTrial, JobState | None]]]:
    """Return the trials of several sweeps with the states of their jobs, by sweep, the first one first."""
    found: dict[str, list[tuple[SweepTrial, JobState | None]]] = {sweep_id: [] for sweep_id in sweep_ids}
    rows = session.execute(
        sa.select(SweepTrial, Job.state)
        .outerjoin(Job, Job.id == SweepTrial.job_id)
        .where(SweepTrial.sweep_id.in_(found))
        .order_by(SweepTrial.number)
    ).all()
    for trial, state in rows:
        found[trial.sweep_id].append((trial, None if state is None else JobState(state)))
    return found


def open_trials(session: Session, sweep_id: str, metric: str | None) -> list[OpenTrial]:
    """Return the trials of a sweep that have not ended, the first one first.

    Args:
        session: of the store.
        sweep_id: of the sweep.
        metric: whose newest number ``OpenTrial.metric_seq`` is; None: of none, 0.
    """
    rows = session.execute(
        sa.select(SweepTrial, Job, MetricSeries.last_seq)
        .outerjoin(Job, Job.id == SweepTrial.job_id)
        .outerjoin(MetricSeries, sa.and_(MetricSeries.job_id == SweepTrial.job_id, MetricSeries.name == metric))
        .where(SweepTrial.sweep_id == sweep_id, SweepTrial.state == TrialState.OPEN)
        .order_by(SweepTrial.number)
        .execution_options(populate_existing=True)
    ).all()
    return [OpenTrial(trial, job, seq or 0) for trial, job, seq in rows]


def delete(session: Session, sweep: Sweep) -> None:
    """Delete a sweep and its trials; their jobs stay."""
    session.delete(sweep)
