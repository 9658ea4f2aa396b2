"""Sweeps: what users ask of them, how a trial begins, and what follows its end.

All that is decided about a sweep's trials is decided with its row locked, and raises its ``revision``: whoever has
looked at them before, without the lock, sees by that whether it still stands. A trial and its job are stored together,
so a process that dies leaves either both or none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from symadj.service.contract.spec.any_job import MOST_LABELS
from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.contract.states import TERMINAL, JobState, ReasonCode, SweepState, TrialState
from symadj.service.contract.storage import Storage
from symadj.service.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidSpecError,
    TooManyRequestsError,
)
from symadj.service.identifiers import new_sweep_id
from symadj.service.lifecycle import parents, requests
from symadj.service.lifecycle.idempotency import hash_of_written, id_under_key
from symadj.service.store import jobs, sweeps
from symadj.service.store.tables import Job, Sweep, SweepTrial

__all__ = [
    "begin_trial",
    "cancel",
    "change",
    "delete",
    "may_begin",
    "note_reports",
    "prune",
    "settle",
    "submit",
]


def submit(
    session: Session,
    spec: SweepSpec,
    *,
    owner: str,
    idempotency_key: str | None = None,
    max_running: int | None = None,
    max_bytes: int | None = None,
) -> tuple[str, bool]:
    """Store a sweep, whose trials a dispatcher will begin; return its id, and whether it is new.

    Under an ``idempotency_key`` that this owner used before with the same spec, it is the sweep of then.

    Raises:
        IdempotencyMismatchError: the key was used before with another spec.
        TooManyRequestsError: ``max_running`` sweeps of this owner run already.
        NoRoomError, InvalidSpecError: as for the job of a trial by itself.
    """
    body_hash = hash_of_written(spec)
    sweep_id = new_sweep_id()
    if idempotency_key is not None:
        sweep_id = f"{sweep_id.partition('-')[0]}-{id_under_key(owner, idempotency_key)}"
        known = sweeps.find(session, sweep_id)
        if known is not None:
            if known.body_hash != body_hash:
                raise IdempotencyMismatchError(
                    f"Idempotency-Key {idempotency_key!r} was used for sweep {known.id!r} with another spec: repeat "
                    "the same spec, or take a new key"
                )
            return known.id, False
    if max_running is not None:
        _check_room(session, owner, max_running)
    # What a first job would be refused for is said now, and not by as many trials as may fail.
    _, values = next(spec.corners())
    rehearsal = session.begin_nested()
    requests.submit(session, spec.job(values, sweep=sweep_id, number=0), owner=owner, max_bytes=max_bytes)
    rehearsal.rollback()
    now = datetime.now(UTC)
    sweeps.add(
        session,
        Sweep(
            id=sweep_id,
            name=spec.name,
            owner=owner,
            spec=spec.counted().stored(),
            body_hash=body_hash,
            state=SweepState.RUNNING.value,
            created_at=now,
            updated_at=now,
        ),
    )
    return sweep_id, True


def _check_room(session: Session, owner: str, max_running: int) -> None:
    jobs.lock_queue(session)  # or two at once would both find the last place free
    running = sweeps.count_running(session, owner)
    if running >= max_running:
        raise TooManyRequestsError(
            f"{owner} has {running} sweeps that run, and {max_running} may: submit again when one has ended, or cancel "
            "one",
            queued=running,
            max_queued=max_running,
        )


def may_begin(sweep: Sweep, spec: SweepSpec, trials: Sequence[SweepTrial]) -> bool:
    """Return whether a sweep is to begin another trial now."""
    return _has_more(sweep, spec, trials) and _count(trials, TrialState.OPEN) < spec.parallel


def _has_more(sweep: Sweep, spec: SweepSpec, trials: Sequence[SweepTrial]) -> bool:
    running = sweep.state == SweepState.RUNNING
    return running and len(trials) < spec.wanted and _count(trials, TrialState.FAILED) <= spec.max_failed


def _count(trials: Sequence[SweepTrial], state: TrialState) -> int:
    return sum(trial.state == state for trial in trials)


def begin_trial(
    session: Session,
    sweep: Sweep,
    spec: SweepSpec,
    values: Mapping[str, Any],
    attrs: dict[str, Any],
    *,
    number: int,
    storage: Storage,
    max_queued: int | None = None,
    max_bytes: int | None = None,
) -> SweepTrial:
    """Store a trial and its job. Values that do not fit together make a trial that has failed, without a job.

    Args:
        session, sweep: the sweep's row is locked.
        spec: of the sweep.
        values: of the parameters, by path.
        attrs: what the sampler notes about the trial.
        number: of the trial, counted from 0.
        storage, max_queued, max_bytes: as for a job by itself.

    Raises:
        TooManyRequestsError, NoRoomError: the owner has no room for its job now.
    """
    now = datetime.now(UTC)
    job, message = None, None
    try:
        job, _ = requests.submit(
            session,
            spec.job(values, sweep=sweep.id, number=number),
            owner=sweep.owner,
            max_queued=max_queued,
            max_bytes=max_bytes,
        )
        parents.adopt_checkpoint(job, storage)
    except ValidationError as error:
        message = "; ".join(found["msg"] for found in error.errors(include_url=False)[:3])
    except InvalidSpecError as error:
        message = str(error)
    trial = SweepTrial(
        sweep_id=sweep.id,
        number=number,
        job_id=None if job is None else job.id,
        parameters=dict(values),
        state=(TrialState.FAILED if job is None else TrialState.OPEN).value,
        message=message,
        created_at=now,
        finished_at=now if job is None else None,
        reports=[],
        attrs=attrs,
    )
    sweeps.add_trial(session, trial)
    _decided(sweep)
    sweep.message = None
    return trial


def note_reports(
    sweep: Sweep, trial: SweepTrial, told: Sequence[tuple[int, float]], *, reports_seq: int, attrs: dict[str, Any]
) -> None:
    """Keep what the pruner was told of a trial, for the next time that the study is built.

    Args:
        sweep: its row is locked.
        trial: of the sweep.
        told: steps and values that are new.
        reports_seq: the metric's number up to which that is all.
        attrs: what sampler and pruner note about the trial.
    """
    trial.reports, trial.reports_seq, trial.attrs = [*trial.reports, *map(list, told)], reports_seq, attrs
    _decided(sweep)


def prune(session: Session, sweep: Sweep, trial: SweepTrial, *, actor: str, message: str, data: dict[str, Any]) -> None:
    """Cancel the job of a trial that is not worth its end; the trial ends with its job.

    Args:
        session, sweep: the sweep's row is locked.
        trial: of the sweep.
        actor: of the job's event.
        message: why, in a sentence.
        data: the figures behind it.
    """
    job = None if trial.job_id is None else jobs.find_locked(session, trial.job_id)
    if job is not None:
        about = {"sweep": sweep.id, "trial": trial.number}
        requests.prune(session, job, actor=actor, message=message, data=about | data)
    trial.message = message
    _decided(sweep)


def settle(session: Session, sweep: Sweep, spec: SweepSpec) -> None:
    """Note what came of the trials whose jobs have ended, and end the sweep if no trial is left.

    Args:
        session, sweep: the sweep's row is locked.
        spec: of the sweep.
    """
    for found in sweeps.open_trials(session, sweep.id, None):
        if found.job is None or JobState(found.job.state) in TERMINAL:
            _end_trial(found.trial, found.job, spec.objective.metric)
            _decided(sweep)
    session.flush()
    trials = sweeps.trials(session, sweep.id)
    if sweep.state != SweepState.RUNNING or _count(trials, TrialState.OPEN) or _has_more(sweep, spec, trials):
        return
    failed, succeeded = _count(trials, TrialState.FAILED), _count(trials, TrialState.SUCCEEDED)
    state, sweep.message = SweepState.SUCCEEDED, None
    if failed > spec.max_failed:
        state = SweepState.FAILED
        last = next(trial.message for trial in reversed(trials) if trial.state == TrialState.FAILED)
        sweep.message = f"{failed} trials failed, and max_failed is {spec.max_failed}. The last of them: {last}"
    elif not succeeded:
        state, sweep.message = SweepState.FAILED, "No trial succeeded."
    sweep.state, sweep.finished_at = state.value, datetime.now(UTC)
    _decided(sweep)


def _end_trial(trial: SweepTrial, job: Job | None, metric: str) -> None:
    trial.finished_at = datetime.now(UTC) if job is None else job.finished_at
    if job is None:
        trial.state, trial.message = TrialState.CANCELLED.value, "Its job was deleted before its end was noted."
        return
    match JobState(job.state):
        case JobState.SUCCEEDED:
            value = (job.result or {}).get(metric)
            if isinstance(value, int | float) and math.isfinite(value):
                trial.state, trial.value = TrialState.SUCCEEDED.value, float(value)
                trial.message = None
            else:
                told = "no" if value is None else f"{value} as its"
                trial.state, trial.message = TrialState.FAILED.value, f"Its job's result has {told} {metric}."
        case JobState.FAILED:
            trial.state, trial.message = TrialState.FAILED.value, f"{job.reason}: {job.message or ''}".strip()
        case _ if job.reason == ReasonCode.PRUNED:
            trial.state = TrialState.PRUNED.value
        case _:
            trial.state, trial.message = TrialState.CANCELLED.value, "Its job was cancelled."


def cancel(session: Session, sweep: Sweep, *, actor: str) -> None:
    """End a sweep, and cancel the jobs of its open trials. Cancelling twice is not an error.

    Raises:
        ConflictError: the sweep succeeded or failed before.
    """
    if sweep.state == SweepState.CANCELLED:
        return
    if sweep.state != SweepState.RUNNING:
        raise ConflictError(f"sweep {sweep.id!r} is {sweep.state}: there is nothing to cancel", state=sweep.state)
    sweep.state, sweep.message = SweepState.CANCELLED.value, f"Cancelled by {actor}."
    sweep.finished_at = datetime.now(UTC)
    for trial in sweeps.trials(session, sweep.id):
        job = None
        if trial.state == TrialState.OPEN and trial.job_id is not None:
            job = jobs.find_locked(session, trial.job_id)
        if job is not None and JobState(job.state) not in TERMINAL:
            requests.cancel(session, job, actor=actor)
    _decided(sweep)


def change(session: Session, sweep: Sweep, *, name: str, labels: dict[str, str]) -> None:
    """Give a sweep another name, or other labels, whatever its state is; its jobs keep theirs.

    Raises:
        InvalidSpecError: there are too many labels.
    """
    if len(labels) > MOST_LABELS:
        raise InvalidSpecError(
            f"the sweep would have {len(labels)} labels, and {MOST_LABELS} are the most: remove some by null",
            pointer="/labels",
        )
    sweep.name, sweep.spec, sweep.updated_at = name, sweep.spec | {"name": name, "labels": labels}, datetime.now(UTC)


def delete(session: Session, sweep: Sweep) -> None:
    """Delete a sweep that has ended, with its trials; their jobs stay, each to be deleted by itself.

    Raises:
        ConflictError: it has not ended, or jobs of it have not.
    """
    if sweep.state == SweepState.RUNNING:
        raise ConflictError(
            f"sweep {sweep.id!r} is running: only one that has ended can be deleted; cancel it first",
            state=sweep.state,
        )
    still_open = [trial.job_id for trial in sweeps.trials(session, sweep.id) if trial.state == TrialState.OPEN]
    if still_open:
        raise ConflictError(
            f"sweep {sweep.id!r} is {sweep.state}, and {len(still_open)} of its jobs are still stopping: try again "
            "when they have stopped",
            state=sweep.state,
        )
    sweeps.delete(session, sweep)


def _decided(sweep: Sweep) -> None:
    sweep.revision += 1
    sweep.updated_at = datetime.now(UTC)
