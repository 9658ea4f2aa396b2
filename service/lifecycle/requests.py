"""What users ask for: submit, cancel, pause, resume, a checkpoint, delete; and what sweeps do: prune."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import ByteSize
from sqlalchemy.orm import Session

from symadj.service import plugins
from symadj.service.contract.layout import job_folder
from symadj.service.contract.plan import IDLE_BYTES
from symadj.service.contract.spec import SCORES, AnySpec, JobSpec, kind_of
from symadj.service.contract.spec.any_job import MOST_LABELS
from symadj.service.contract.states import ACTIVE, TERMINAL, JobState, ReasonCode, StopReason
from symadj.service.contract.storage import Storage
from symadj.service.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidSpecError,
    TooManyRequestsError,
)
from symadj.service.identifiers import new_job_id
from symadj.service.lifecycle import parents, uploads
from symadj.service.lifecycle.idempotency import hash_of_written
from symadj.service.lifecycle.shares import check_disk
from symadj.service.store import Database, blocks, events, jobs
from symadj.service.store.tables import IdempotencyKey, Job

__all__ = ["ask_checkpoint", "cancel", "change", "delete", "delete_telemetry", "pause", "prune", "resume", "submit"]


def submit(
    session: Session,
    spec: AnySpec,
    *,
    owner: str,
    job_id: str | None = None,
    idempotency_key: str | None = None,
    max_queued: int | None = None,
    max_bytes: int | None = None,
) -> tuple[Job, bool]:
    """Store a job in the queue; return it and whether it is new.

    The caller then calls ``parents.adopt_checkpoint`` or ``scored.adopt_flow``, in the same transaction.

    ``job_id`` is that of a job for which files were stored before; default: a new one.

    Under an ``idempotency_key`` that this owner used before with the same spec, the job of then is returned.

    Raises:
        IdempotencyMismatchError: the key was used before with another spec.
        TooManyRequestsError: ``max_queued`` jobs of this owner wait already.
        NoRoomError: files of this owner have ``max_bytes`` already.
        InvalidSpecError: the memory_budget is less than any worker takes; the spec's parent has no such checkpoint, or
            trains something else; an upload that it names is not this owner's; or its field is of a package that is
            not installed, or that refuses its options.
    """
    body_hash = b""
    if idempotency_key is not None:
        body_hash = hash_of_written(spec)
        known = jobs.idempotency_key(session, owner, idempotency_key)
        if known is not None:
            if known.body_hash != body_hash:
                raise IdempotencyMismatchError(
                    f"Idempotency-Key {idempotency_key!r} was used for job {known.job_id!r} with another spec: "
                    "repeat the same spec, or take a new key"
                )
            return jobs.get(session, known.job_id), False
    # After the look for the key: a repeated request is answered whatever was installed since.
    if isinstance(spec, JobSpec):
        spec = plugins.resolved(spec)
    _check_budget(spec)
    if max_queued is not None:
        _check_room(session, owner, max_queued)
    check_disk(session, owner, max_bytes)
    uploads.check_named(session, spec, owner=owner, keep=True)
    checkpoint = parents.checkpoint_of(session, spec, owner=owner) if isinstance(spec, JobSpec) else None
    now = datetime.now(UTC)
    job = Job(
        id=job_id or new_job_id(),
        name=spec.name,
        owner=owner,
        spec=spec.stored(),
        priority=spec.priority,
        state=JobState.QUEUED.value,
        created_at=now,
        updated_at=now,
        parent_id=checkpoint.job_id if checkpoint is not None else None,
        parent_checkpoint=checkpoint.name if checkpoint is not None else None,
    )
    jobs.add(session, job)
    if idempotency_key is not None:
        jobs.remember_key(
            session,
            IdempotencyKey(owner=owner, key=idempotency_key, body_hash=body_hash, job_id=job.id, created_at=now),
        )
    return job, True


def _check_budget(spec: AnySpec) -> None:
    budget = spec.resources.memory_budget
    if budget is not None and budget < IDLE_BYTES:
        least = ByteSize(IDLE_BYTES).human_readable()
        raise InvalidSpecError(
            f"resources.memory_budget {budget.human_readable()} is less than the {least} that a worker's interpreter "
            "and libraries take before there is any row or weight: give more, `symadj plan` says how much is needed",
            pointer="/resources/memory_budget",
        )


def _check_room(session: Session, owner: str, max_queued: int) -> None:
    jobs.lock_queue(session)  # or two at once would both find the last place free
    queued = jobs.count_queued(session, owner)
    if queued >= max_queued:
        raise TooManyRequestsError(
            f"{owner} has {queued} jobs in the queue, and {max_queued} may wait: submit again when one has started, or "
            "cancel one",
            queued=queued,
            max_queued=max_queued,
        )


def cancel(session: Session, job: Job, *, actor: str) -> None:
    """Cancel a job: at once if it waits, at its next step if it runs. Cancelling twice is not an error.

    Raises:
        ConflictError: the job succeeded or failed before.
    """
    state = JobState(job.state)
    if state is JobState.CANCELLED:
        return
    if state in TERMINAL:
        raise ConflictError(f"job {job.id!r} is {job.state}: there is nothing to cancel", state=job.state)
    if state not in ACTIVE:
        message = f"Cancelled while it was {job.state}."
        jobs.transition(session, job, JobState.CANCELLED, actor=actor, message=message, not_before=None)
        job.message = message
    elif job.stop_requested != StopReason.CANCEL:
        job.stop_requested = StopReason.CANCEL.value
        job.stop_requested_at = job.updated_at = datetime.now(UTC)
        events.append(session, job, actor=actor, name="cancel_requested", message="To stop at its next step.")


def prune(session: Session, job: Job, *, actor: str, message: str, data: dict[str, Any]) -> None:
    """Cancel a job for its sweep, for the reason ``pruned``. What was asked for before, but a pause, stands.

    Args:
        session, job: the job's row is locked.
        actor: of the event.
        message: why, in a sentence.
        data: the figures behind it.
    """
    state = JobState(job.state)
    if state in TERMINAL or job.stop_requested not in {None, StopReason.PAUSE, StopReason.SERVICE_STOPPED}:
        return
    events.append(session, job, actor=actor, name="prune_requested", message=message, data=data)
    if state in ACTIVE:
        job.stop_requested = StopReason.PRUNED.value
        job.stop_requested_at = job.updated_at = datetime.now(UTC)
        return
    message = f"Its sweep has pruned it while it was {job.state}."
    reason = ReasonCode.PRUNED.value
    data = {"reason": reason}
    jobs.transition(
        session, job, JobState.CANCELLED, actor=actor, message=message, data=data, not_before=None, reason=reason
    )
    job.message = message


def pause(session: Session, job: Job, *, actor: str) -> None:
    """Pause a job: at once if it waits, at its next step, with a checkpoint, if it runs. Pausing twice is not an error.

    Raises:
        ConflictError: the job has ended, or is about to.
    """
    state = JobState(job.state)
    if state in TERMINAL:
        raise ConflictError(f"job {job.id!r} is {job.state}: there is nothing to pause", state=job.state)
    if job.stop_requested not in {None, StopReason.PAUSE, StopReason.SERVICE_STOPPED}:
        raise ConflictError(
            f"job {job.id!r} is stopping for good ({job.stop_requested}): it can't be paused any more", state=job.state
        )
    if state is JobState.QUEUED:
        message = "Paused while it waited."
        jobs.transition(session, job, JobState.PAUSED, actor=actor, message=message, not_before=None)
    elif state in {JobState.STARTING, JobState.RUNNING}:
        jobs.transition(
            session,
            job,
            JobState.PAUSING,
            actor=actor,
            message="To stop at its next step, with a checkpoint.",
            stop_requested=StopReason.PAUSE.value,
            stop_requested_at=datetime.now(UTC),
        )


def resume(session: Session, job: Job, *, actor: str) -> None:
    """Put a paused job back into the queue, where it keeps its place by priority and time of submission.

    Raises:
        ConflictError: the job is not paused.
    """
    if job.state == JobState.PAUSING:
        raise ConflictError(f"job {job.id!r} is pausing: wait until it is paused, then resume it", state=job.state)
    if job.state != JobState.PAUSED:
        raise ConflictError(f"job {job.id!r} is {job.state}: only a paused job can be resumed", state=job.state)
    message = "Resumed: it waits for its next attempt."
    jobs.transition(session, job, JobState.QUEUED, actor=actor, message=message, not_before=None)


def ask_checkpoint(session: Session, job: Job, *, actor: str) -> None:
    """Ask a run for a checkpoint of its next step.

    Raises:
        ConflictError: the job does not run, is stopping, with a checkpoint anyway, or has none to write.
    """
    if kind_of(job.spec) == SCORES:
        raise ConflictError(
            f"job {job.id!r} scores rows and has no checkpoints: it keeps each piece of rows that it has finished",
            state=job.state,
        )
    if job.state not in {JobState.STARTING, JobState.RUNNING}:
        hint = "it writes one as it stops" if job.state == JobState.PAUSING else "only a job that runs can write one"
        raise ConflictError(f"job {job.id!r} is {job.state}: {hint}", state=job.state)
    job.checkpoints_asked += 1
    job.updated_at = datetime.now(UTC)
    events.append(session, job, actor=actor, name="checkpoint_requested", message="To be written at its next step.")


def change(session: Session, job: Job, *, name: str, labels: dict[str, str], actor: str) -> None:
    """Give a job another name, or other labels, whatever its state is. What it has already is no change.

    Raises:
        InvalidSpecError: there are too many labels.
    """
    if len(labels) > MOST_LABELS:
        raise InvalidSpecError(
            f"the job would have {len(labels)} labels, and {MOST_LABELS} are the most: remove some by null",
            pointer="/labels",
        )
    wanted = {"name": name, "labels": labels}
    before = {part: job.spec[part] for part in wanted}
    if wanted == before:
        return
    job.name, job.spec, job.updated_at = name, job.spec | wanted, datetime.now(UTC)
    jobs.put_labels(session, job)
    data = {"before": before, "after": wanted}
    events.append(session, job, actor=actor, name="changed", message="Its name or labels were changed.", data=data)


def delete(session: Session, job: Job, *, storage: Storage) -> bool:
    """Delete an ended job: its row and events. Its metrics and telemetry are for :func:`delete_telemetry`, afterwards.

    Its folder is set aside, for the caller to discard after the commit: that may take long, and others wait for the
    transaction. Returned is whether there is one.

    Raises:
        ConflictError: the job has not ended.
        OSError: the storage can't be written, or does not answer.
    """
    if JobState(job.state) not in TERMINAL:
        raise ConflictError(
            f"job {job.id!r} is {job.state}: only an ended job can be deleted; cancel it first",
            state=job.state,
        )
    jobs.delete(session, job)
    session.flush()
    return storage.set_aside(job_folder(job.id))


def delete_telemetry(store: Database) -> None:
    """Delete the metrics and the telemetry of jobs that were deleted, in pieces, between which others may write.

    The dispatcher does so too: for whoever died before it came to this.
    """
    more = True
    while more:
        with store.session() as session:
            more = blocks.delete_some(session)
