"""The tries at a job: how one begins, and what becomes of the job when one ends.

One attempt is one Ray job. Its end is reported by the run itself, or by a dispatcher that found it dead; what follows
is decided here: the job ends, waits as the user requested, or waits for its next attempt.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.spec import AnyJob
from symadj.service.contract.states import ACTIVE, INTERRUPTIONS, RETRYABLE, JobState, ReasonCode, StopReason
from symadj.service.lifecycle.advice import advice_for
from symadj.service.store import alerts, checkpoints, events, jobs
from symadj.service.store.tables import Attempt, Job

__all__ = [
    "LEASE_SECONDS",
    "Claim",
    "ask_service_stop",
    "ask_timeout",
    "claim",
    "end",
    "hash_token",
    "lose",
    "pause_after",
    "put_back",
    "refuse",
]

# Time from the claim of a job to Ray's answer; a claim older than that has lost its dispatcher.
LEASE_SECONDS = 60.0
LOST = "lost"
STOPPED = "stopped"
NOT_STARTED = "not_started"


@dataclass(frozen=True)
class Claim:
    """A job that is about to be started, the secret of its attempt, and how many have run out of memory before."""

    job: Job
    attempt: Attempt
    token: str
    out_of_memory: int


def hash_token(token: str) -> bytes:
    """Return what the store keeps of an attempt's token."""
    return hashlib.sha256(token.encode()).digest()


def claim(
    session: Session, job: Job, *, actor: str, workers: int = 1, lease_seconds: float = LEASE_SECONDS
) -> Claim | None:
    """Take a queued job for starting with so many workers, or return None if someone else was faster."""
    number = job.attempt + 1
    moved = jobs.transition(
        session,
        job,
        JobState.STARTING,
        actor=actor,
        message=f"Attempt {number} is being given to the cluster.",
        data={"workers": workers},
        attempt=number,
        not_before=None,
    )
    if not moved:
        return None
    token = secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    attempt = Attempt(
        job_id=job.id,
        number=number,
        submission_id=f"{job.id}-{number}",
        token_hash=hash_token(token),
        workers=workers,
        created_at=now,
        lease_token=secrets.token_hex(16),
        lease_expires_at=now + timedelta(seconds=lease_seconds),
    )
    jobs.add_attempt(session, attempt)
    alerts.begin(session, job)
    return Claim(job, attempt, token, _out_of_memory(session, job))


def pause_after(losses: int, retry_seconds: float) -> float:
    """Return the seconds before the next attempt after so many losses: twice as many after each, up to 5 minutes."""
    return min(jobs.LONGEST_PAUSE_SECONDS, retry_seconds * 2.0 ** min(losses - 1, 30))


def put_back(
    session: Session,
    job: Job,
    *,
    actor: str,
    message: str,
    pause_seconds: float = 0.0,
    reason: ReasonCode = ReasonCode.CLUSTER_LOST,
) -> None:
    """Put a job that the cluster did not take back into the queue, or carry out a request to stop that came meanwhile.

    Nothing was lost by it: it does not count towards ``max_attempts``.
    """
    if job.stop_requested is not None:
        _stop(session, job, StopReason(job.stop_requested), "It had not started.", actor=actor)
        return
    now = datetime.now(UTC)
    _close(session, job, NOT_STARTED, reason, message)
    not_before = now + timedelta(seconds=pause_seconds) if pause_seconds else None
    jobs.transition(session, job, JobState.QUEUED, actor=actor, message=message, not_before=not_before)


def ask_timeout(session: Session, job: Job, *, actor: str, message: str) -> None:
    """Ask a run whose job is out of time to stop; what was asked for before stands."""
    if JobState(job.state) not in ACTIVE or job.stop_requested is not None:
        return
    job.stop_requested = StopReason.TIMEOUT.value
    job.stop_requested_at = job.updated_at = datetime.now(UTC)
    events.append(session, job, actor=actor, name="timeout_requested", message=message)


def ask_service_stop(session: Session, job: Job, *, actor: str) -> None:
    """Ask a run to stop because the service ends; what was asked for before stands."""
    if JobState(job.state) not in ACTIVE or job.stop_requested is not None:
        return
    job.stop_requested = StopReason.SERVICE_STOPPED.value
    job.stop_requested_at = job.updated_at = datetime.now(UTC)
    message = "The service is being stopped: to stop at its next step, with a checkpoint."
    events.append(session, job, actor=actor, name="service_stop_requested", message=message)


def refuse(session: Session, job: Job, reason: ReasonCode, message: str, *, actor: str) -> None:
    """Fail a job that waits in the queue."""
    if job.state == JobState.QUEUED:
        _fail(session, job, reason, message, None, actor=actor)


def end(session: Session, job: Job, outcome: OutcomeRecord, *, actor: str, retry_seconds: float) -> None:
    """End the job's attempt as its run says, and decide what follows. The first end of an attempt counts."""
    if JobState(job.state) not in ACTIVE:
        return
    if job.state == JobState.STARTING and outcome.state is JobState.SUCCEEDED:
        jobs.transition(session, job, JobState.RUNNING, actor=actor, message="The run reports.")
    requested = StopReason(job.stop_requested) if job.stop_requested is not None else None
    reason, message, data = outcome.reason, outcome.message, outcome.data or None
    if outcome.state is JobState.SUCCEEDED:
        _close(session, job, JobState.SUCCEEDED, None, message)
        jobs.transition(
            session,
            job,
            JobState.SUCCEEDED,
            actor=actor,
            message=message,
            result=None if outcome.result is None else outcome.result.stored(),
            reason_data=data,
            **_NO_WISH,
        )
        job.message = message or None
    elif outcome.state is JobState.FAILED and reason is not ReasonCode.TIMEOUT and reason not in INTERRUPTIONS:
        reason = reason or ReasonCode.INTERNAL
        if _may_retry(session, job, reason):
            lose(session, job, reason, message, actor=actor, retry_seconds=retry_seconds, data=data)
        else:
            _fail(session, job, reason, message, data, actor=actor)
    elif requested is not None:
        _stop(session, job, requested, message, actor=actor, data=data)
    elif reason is not None and reason in INTERRUPTIONS:
        _interrupt(session, job, reason, message, actor=actor, data=data, pause_seconds=retry_seconds)
    elif outcome.state is JobState.CANCELLED:
        _stop(session, job, StopReason.CANCEL, message, actor=actor, data=data)
    elif reason is ReasonCode.TIMEOUT:
        _fail(session, job, reason, message, data, actor=actor)
    else:
        _fail(session, job, ReasonCode.INTERNAL, f"The run paused without a request. {message}", data, actor=actor)


def lose(
    session: Session,
    job: Job,
    reason: ReasonCode,
    message: str,
    *,
    actor: str,
    retry_seconds: float,
    data: dict[str, Any] | None = None,
) -> None:
    """End the job's attempt, whose run can't speak for itself any more, and decide what follows.

    A request to stop is carried out, however the run stopped. Otherwise a job that deserves another attempt gets one,
    ``retry_seconds`` later and twice as long after every loss, until ``max_attempts`` were lost in a row. A new
    checkpoint restarts that count: a long training on machines that come and go must not fail for it.
    """
    if JobState(job.state) not in ACTIVE:
        return
    if job.stop_requested is not None:
        requested = StopReason(job.stop_requested)
        _stop(session, job, requested, f"The run did not stop by itself. {message}", actor=actor, data=data)
        return
    if not _may_retry(session, job, reason):
        _fail(session, job, reason, message, data, actor=actor)
        return
    lost, in_a_row = job.attempts_lost + 1, _lost_in_a_row(session, job)
    most = int(job.spec.get("max_attempts", AnyJob.model_fields["max_attempts"].default))
    if in_a_row >= most:
        times = "1 attempt was" if in_a_row == 1 else f"{in_a_row} attempts in a row were"
        # Before what the run printed last, where that is quoted.
        first, *quoted = message.split("\n")
        first = f"{first} {times} lost without a new checkpoint, and max_attempts is {most}.".strip()
        message = "\n".join((first, *quoted))
        _fail(session, job, reason, message, data, actor=actor, outcome=LOST, attempts_lost=lost)
        return
    pause = pause_after(in_a_row, retry_seconds)
    not_before = datetime.now(UTC) + timedelta(seconds=pause)
    _close(session, job, LOST, reason, message)
    details = {
        "reason": reason.value,
        "attempts_lost": lost,
        "max_attempts": most,
        "next_start": not_before.isoformat(),
    }
    events.append(session, job, actor=actor, name="attempt_lost", message=message, data=details | (data or {}))
    jobs.transition(
        session,
        job,
        JobState.QUEUED,
        actor=actor,
        message=f"It waits for attempt {job.attempt + 1}, in {pause:g} s or later.",
        attempts_lost=lost,
        not_before=not_before,
    )


def _lost_in_a_row(session: Session, job: Job) -> int:
    """Return how many attempts were lost since the newest checkpoint, the present one included."""
    newest = checkpoints.newest(session, job.id)
    since = newest.attempt if newest is not None else 0
    return 1 + sum(
        attempt.outcome == LOST for attempt in jobs.attempts(session, job.id) if since <= attempt.number < job.attempt
    )


def _out_of_memory(session: Session, job: Job) -> int:
    """Return how many attempts of a job have ended because memory ran out."""
    return sum(attempt.reason == ReasonCode.OUT_OF_MEMORY for attempt in jobs.attempts(session, job.id))


_NO_WISH: dict[str, Any] = {"stop_requested": None, "stop_requested_at": None}


def _may_retry(session: Session, job: Job, reason: ReasonCode) -> bool:
    if reason is ReasonCode.OUT_OF_MEMORY:
        return _out_of_memory(session, job) < int(job.spec["resources"].get("out_of_memory_retries", 0))
    # A job that ran once did fit: the cluster has shrunk, and may grow back.
    return reason in RETRYABLE or (reason is ReasonCode.CANNOT_FIT and job.started_at is not None)


def _stop(
    session: Session, job: Job, requested: StopReason, message: str, *, actor: str, data: dict[str, Any] | None = None
) -> None:
    """End the attempt as was asked for."""
    if requested is StopReason.SERVICE_STOPPED:
        message = f"The service was stopped. {message[:1].upper()}{message[1:]}".strip()
        _interrupt(session, job, ReasonCode.SERVICE_STOPPED, message, actor=actor, data=data)
        return
    if requested is StopReason.TIMEOUT:
        minutes = job.spec.get("timeout_minutes")
        message = f"The job is over its timeout_minutes {minutes:g}. {message}".strip()
        _fail(session, job, ReasonCode.TIMEOUT, message, data, actor=actor)
        return
    to = JobState.PAUSED if requested is StopReason.PAUSE else JobState.CANCELLED
    reason = ReasonCode.PRUNED if requested is StopReason.PRUNED else None
    if reason is not None:
        message = f"Its sweep has pruned it. {message[:1].upper()}{message[1:]}".strip()
        data = {"reason": reason.value} | (data or {})
    code = None if reason is None else reason.value
    _close(session, job, to, reason, message)
    jobs.transition(session, job, to, actor=actor, message=message, data=data, reason=code, **_NO_WISH)
    if to is JobState.CANCELLED:
        job.message = message or None


def _interrupt(
    session: Session,
    job: Job,
    reason: ReasonCode,
    message: str,
    *,
    actor: str,
    data: dict[str, Any] | None,
    pause_seconds: float = 0.0,
) -> None:
    """End the attempt, not the job, which goes on from its newest checkpoint as soon as it is its turn."""
    _close(session, job, STOPPED, reason, message)
    details = {"reason": reason.value} | (data or {})
    events.append(session, job, actor=actor, name="attempt_stopped", message=message, data=details)
    not_before = datetime.now(UTC) + timedelta(seconds=pause_seconds) if pause_seconds else None
    waits = f"It waits for attempt {job.attempt + 1}."
    jobs.transition(session, job, JobState.QUEUED, actor=actor, message=waits, not_before=not_before, **_NO_WISH)


def _fail(
    session: Session,
    job: Job,
    reason: ReasonCode,
    message: str,
    data: dict[str, Any] | None,
    *,
    actor: str,
    outcome: str = JobState.FAILED.value,
    **columns: Any,
) -> None:
    if JobState(job.state) in ACTIVE:
        _close(session, job, outcome, reason, message)
    data = {"advice": advice_for(job.spec, reason)} | (data or {})
    if reason is ReasonCode.OUT_OF_MEMORY:
        data = {"host_peak_bytes": job.host_peak_bytes, "device_peak_bytes": job.device_peak_bytes} | data
    failed = jobs.transition(
        session,
        job,
        JobState.FAILED,
        actor=actor,
        message=message,
        data={"reason": reason},
        reason=reason.value,
        reason_data=data,
        not_before=None,
        **_NO_WISH,
        **columns,
    )
    if failed:
        job.message = message or None


def _close(session: Session, job: Job, outcome: str, reason: ReasonCode | None, message: str) -> None:
    attempt = jobs.attempt(session, job.id, job.attempt)
    attempt.finished_at = datetime.now(UTC)
    attempt.outcome, attempt.message = str(outcome), message or None
    attempt.reason = reason.value if reason is not None else None
    attempt.lease_token = attempt.lease_expires_at = None
