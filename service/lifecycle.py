"""What may happen to a job: submit, claim, cancel, delete, end. Each call runs in the caller's transaction."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from service.errors import Conflict, IdempotencyMismatch
from service.identifiers import new_job_id
from service.records import OutcomeRecord
from service.spec import JobSpec
from service.states import ACTIVE, CANCELLABLE, TERMINAL, JobState, ReasonCode
from service.store import events, jobs
from service.store.tables import Attempt, IdempotencyKey, Job

__all__ = [
    "Claim",
    "artifact_folder",
    "cancel",
    "claim",
    "delete",
    "end",
    "fail",
    "hash_token",
    "job_folder",
    "put_back",
    "submit",
]


def submit(session: Session, spec: JobSpec, *, owner: str, idempotency_key: str | None = None) -> tuple[Job, bool]:
    """Store a job in the queue; return it and whether it is new.

    Under an ``idempotency_key`` that this owner used before with the same spec, the job of then is returned.

    Raises:
        IdempotencyMismatch: the key was used before with another spec.
    """
    stored = spec.stored()
    # What the user wrote, without defaults: those may change with a release, and the user's retry would not match.
    written = spec.model_dump(mode="json", exclude_unset=True)
    body_hash = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).digest()
    if idempotency_key is not None:
        known = jobs.idempotency_key(session, owner, idempotency_key)
        if known is not None:
            if known.body_hash != body_hash:
                raise IdempotencyMismatch(
                    f"Idempotency-Key {idempotency_key!r} was used for job {known.job_id!r} with another spec: "
                    "repeat the same spec, or take a new key"
                )
            return jobs.get(session, known.job_id), False
    now = datetime.now(UTC)
    job = Job(
        id=new_job_id(),
        name=spec.name,
        owner=owner,
        spec=stored,
        priority=spec.priority,
        state=JobState.QUEUED.value,
        created_at=now,
        updated_at=now,
    )
    jobs.add(session, job)
    if idempotency_key is not None:
        jobs.remember_key(
            session,
            IdempotencyKey(owner=owner, key=idempotency_key, body_hash=body_hash, job_id=job.id, created_at=now),
        )
    return job, True


@dataclass(frozen=True)
class Claim:
    """A job that is about to be started, and the secret of its attempt."""

    job: Job
    attempt: Attempt
    token: str


def hash_token(token: str) -> bytes:
    """Return what the store keeps of an attempt's token."""
    return hashlib.sha256(token.encode()).digest()


def claim(session: Session, job: Job, *, actor: str, lease_seconds: float) -> Claim | None:
    """Take a queued job for starting, or return None if someone else was faster."""
    number = job.attempt + 1
    moved = jobs.transition(
        session,
        job,
        JobState.STARTING,
        actor=actor,
        message=f"Attempt {number} is being given to the cluster.",
        attempt=number,
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
        created_at=now,
        lease_token=secrets.token_hex(16),
        lease_expires_at=now + timedelta(seconds=lease_seconds),
    )
    jobs.add_attempt(session, attempt)
    return Claim(job, attempt, token)


def put_back(session: Session, job: Job, *, actor: str, message: str) -> bool:
    """Return a job that the cluster did not take to the queue; one that is to be cancelled is cancelled."""
    jobs.attempt(session, job.id, job.attempt).finished_at = datetime.now(UTC)
    if job.cancel_requested_at is not None:
        return jobs.transition(session, job, JobState.CANCELLED, actor=actor, message="Cancelled before it started.")
    return jobs.transition(session, job, JobState.QUEUED, actor=actor, message=message)


def cancel(session: Session, job: Job, *, actor: str) -> None:
    """Cancel a job: at once if it waits, at its next step if it runs. Cancelling twice is no error.

    Raises:
        Conflict: the job succeeded or failed before.
    """
    if job.state == JobState.CANCELLED:
        return
    if JobState(job.state) not in CANCELLABLE:
        raise Conflict(f"job {job.id!r} is {job.state}: there is nothing to cancel", state=job.state)
    if job.state == JobState.QUEUED:
        jobs.transition(session, job, JobState.CANCELLED, actor=actor, message="Cancelled while it waited.")
    elif job.cancel_requested_at is None:
        job.cancel_requested_at = job.updated_at = datetime.now(UTC)
        events.append(session, job, actor=actor, name="cancel_requested", message="To stop at its next step.")


def delete(session: Session, job: Job, *, storage: Path) -> Path | None:
    """Delete an ended job: its row, events, metrics and telemetry.

    Its folder is moved aside, and returned for the caller to remove after the commit: that may take long, and others
    wait for the transaction.

    Raises:
        Conflict: the job has not ended.
    """
    if JobState(job.state) not in TERMINAL:
        raise Conflict(
            f"job {job.id!r} is {job.state}: only an ended job can be deleted; cancel it first",
            state=job.state,
        )
    jobs.delete(session, job)
    session.flush()
    folder, aside = job_folder(storage, job.id), storage / f".deleted-{job.id}"
    if not folder.exists():
        return None
    return folder.rename(aside)


def job_folder(storage: Path, job_id: str) -> Path:
    """Return the folder of one job in the shared storage."""
    return storage / job_id


def artifact_folder(storage: Path, job_id: str) -> Path:
    """Return the folder of a job's finished files."""
    return job_folder(storage, job_id) / "artifacts"


def end(session: Session, job: Job, outcome: OutcomeRecord, *, actor: str) -> None:
    """End a job as its run says. A job that has ended keeps its first end."""
    if JobState(job.state) in TERMINAL:
        return
    if job.state == JobState.STARTING and outcome.state is JobState.SUCCEEDED:
        jobs.transition(session, job, JobState.RUNNING, actor=actor, message="The run reports.")
    messages = {
        JobState.SUCCEEDED: "Training and evaluation are complete.",
        JobState.CANCELLED: "Stopped as asked.",
    }
    jobs.transition(
        session,
        job,
        outcome.state,
        actor=actor,
        message=outcome.message or messages.get(outcome.state, ""),
        data=outcome.data,
        reason=outcome.reason.value if outcome.reason else None,
        reason_data=outcome.data or None,
        result=outcome.result,
    )
    _after_end(session, job, outcome.message)


def fail(session: Session, job: Job, reason: ReasonCode, message: str, *, actor: str) -> None:
    """End a job whose run can't speak for itself. A cancelled one is cancelled, however it stopped."""
    if job.cancel_requested_at is not None and JobState(job.state) in ACTIVE:
        jobs.transition(session, job, JobState.CANCELLED, actor=actor, message=f"Stopped by force. {message}".strip())
    else:
        jobs.transition(
            session,
            job,
            JobState.FAILED,
            actor=actor,
            message=message,
            reason=reason.value,
            data={"reason": reason},
        )
    _after_end(session, job, message)


def _after_end(session: Session, job: Job, message: str) -> None:
    job.message = message or None
    if job.attempt:
        jobs.attempt(session, job.id, job.attempt).finished_at = job.finished_at
