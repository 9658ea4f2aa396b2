"""Takes the workers' batches into the store: each record once, whatever was sent twice or out of turn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_never

from sqlalchemy.orm import Session

from symadj.service.contract.records import (
    AnyRecord,
    ArtifactRecord,
    BatchAnswer,
    CheckpointRecord,
    ClosedRecord,
    DataRecord,
    EventRecord,
    LogRecord,
    MemoryRecord,
    OutcomeRecord,
    PlanRecord,
    RecordBatch,
    ResumedRecord,
    StepRecord,
)
from symadj.service.contract.states import JobState, StopReason
from symadj.service.errors import ConflictError, UnauthorizedError
from symadj.service.lifecycle import attempts
from symadj.service.store import artifacts, checkpoints, data, events, jobs, logs, memory, metrics, plans, sources
from symadj.service.store.tables import Attempt, IngestSource, Job

__all__ = ["LATE_SECONDS", "authenticate", "store_batch"]

# For how long after the end of an attempt its token still brings in what its spool holds, and of which kinds.
LATE_SECONDS = 300.0
_MAY_BE_LATE = (StepRecord, MemoryRecord, EventRecord, LogRecord, ClosedRecord)


def authenticate(session: Session, token: str) -> Attempt:
    """Return the attempt to which a token belongs.

    Raises:
        UnauthorizedError: to none.
    """
    attempt = jobs.attempt_by_token(session, attempts.hash_token(token))
    if attempt is None:
        raise UnauthorizedError("the token belongs to no attempt: its job was deleted, or it is not one of ours")
    return attempt


def store_batch(
    session: Session, attempt: Attempt, batch: RecordBatch, *, retry_seconds: float, live: bool = True
) -> BatchAnswer:
    """Store what is new in a batch and say which record is awaited next.

    Without ``live`` the batch is what a run that is gone left behind: then records of an older attempt are taken too,
    but they replace nothing of a later one, and its outcome changes nothing any more. ``retry_seconds`` is the pause
    before the next attempt, should an outcome ask for one.

    A live batch of an attempt that has ended, by its token, adds steps, memory, events and logs that are not stored
    yet, for ``LATE_SECONDS``. It replaces nothing, and its artifacts, checkpoints and all else are acknowledged and
    left out.

    Raises:
        ConflictError: records before this batch are missing; the extension ``next_seq`` names the first of them.
        UnauthorizedError: a later attempt has taken this one's place, or this one has ended too long ago.
        InvalidParameterError: the job would have more metrics than a job may have.
    """
    job = jobs.lock(session, attempt.job_id)
    session.refresh(attempt)
    if live and attempt.number != job.attempt:
        raise UnauthorizedError(f"attempt {attempt.number} of {job.id} was replaced by attempt {job.attempt}")
    now, ended_at = datetime.now(UTC), attempt.finished_at
    if live and ended_at is not None and now - ended_at > timedelta(seconds=LATE_SECONDS):
        raise UnauthorizedError(f"attempt {attempt.number} of {job.id} ended at {ended_at.isoformat()}")
    late = live and ended_at is not None
    position = sources.get(session, job.id, attempt.number, batch.source)
    if batch.first_seq > position.next_seq:
        raise ConflictError(
            f"{batch.source} sent records from {batch.first_seq}, but {position.next_seq} has not arrived",
            next_seq=position.next_seq,
        )
    fresh = batch.records[position.next_seq - batch.first_seq :]
    position.next_seq += len(fresh)
    if live:
        position.seen_at = now

    # A rank has reported: the driver does so before the workers have started.
    if live and job.state == JobState.STARTING and fresh and batch.source != "driver":
        jobs.transition(session, job, JobState.RUNNING, actor=batch.source, message="The run reports.")
    steps = [record for record in fresh if isinstance(record, StepRecord)]
    metrics.append(session, job, attempt.number, steps, replace=not late)
    peaks = [record for record in fresh if isinstance(record, MemoryRecord)]
    memory.append(session, job, attempt.number, peaks, replace=not late)
    written = [record for record in fresh if isinstance(record, LogRecord)]
    logs.append(session, job, attempt.number, batch.source, written)
    for record in fresh:
        if late and not isinstance(record, _MAY_BE_LATE):
            continue
        _store_single(session, job, attempt, position, record, retry_seconds)
    # The attempt is over: any process of it that is left must stop.
    stop = StopReason.CANCEL if attempt.finished_at is not None else job.stop_requested
    if stop == StopReason.SERVICE_STOPPED:
        stop = StopReason.PAUSE  # to a run it is one; what becomes of its job does not concern it
    elif stop == StopReason.PRUNED:
        stop = StopReason.CANCEL  # likewise
    return BatchAnswer(
        next_seq=position.next_seq,
        stop=StopReason(stop) if stop is not None else None,
        checkpoints_asked=job.checkpoints_asked,
    )


def _store_single(
    session: Session, job: Job, attempt: Attempt, position: IngestSource, record: AnyRecord, retry_seconds: float
) -> None:
    match record:
        case StepRecord() | MemoryRecord() | LogRecord():
            pass  # stored for the whole batch at once
        case EventRecord():
            if record.name == "resumed" and position.source == "rank-0" and attempt.finished_at is None:
                # A run that began under the first versions, which had no record of its own for this.
                step = record.data.get("step")
                is_step = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63
                attempt.resumed_from_step = step if is_step else None
            _append_event(session, job, attempt, position, record)
        case ResumedRecord():
            attempt.resumed_from_step = record.step
            event = EventRecord(
                time=record.time,
                name="resumed",
                message=f"Training goes on after step {record.step}, from {record.checkpoint}",
                data={"step": record.step, "checkpoint": record.checkpoint},
            )
            _append_event(session, job, attempt, position, event)
        case DataRecord():
            data.put(session, job, attempt.number, record)
        case PlanRecord():
            plans.put(session, job, attempt.number, record)
        case ArtifactRecord():
            artifacts.add(session, job, attempt.number, record)
        case CheckpointRecord():
            checkpoints.add(session, job, record)
        case ClosedRecord():
            position.closed = True
        case OutcomeRecord():
            if attempt.number == job.attempt:  # a later attempt's outcome is the job's
                attempts.end(session, job, record, actor=position.source, retry_seconds=retry_seconds)
        case _:
            assert_never(record)


def _append_event(session: Session, job: Job, attempt: Attempt, position: IngestSource, record: EventRecord) -> None:
    events.append(
        session,
        job,
        actor=position.source,
        name=record.name,
        message=record.message,
        data=record.data,
        time=record.time,
        attempt=attempt.number,
    )
