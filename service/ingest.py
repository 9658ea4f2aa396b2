"""Takes the workers' batches into the store: each record once, whatever was sent twice or out of turn."""

from __future__ import annotations

from sqlalchemy.orm import Session

from service import lifecycle
from service.errors import Conflict, Unauthorized
from service.records import (
    ArtifactRecord,
    Batch,
    BatchAnswer,
    EventRecord,
    MemoryRecord,
    OutcomeRecord,
    StepRecord,
)
from service.states import JobState
from service.store import artifacts, events, jobs, memory, metrics
from service.store.tables import Attempt, IngestSource, Job

__all__ = ["authenticate", "store_batch"]


def authenticate(session: Session, token: str) -> Attempt:
    """Return the attempt to which a token belongs.

    Raises:
        Unauthorized: to none.
    """
    attempt = jobs.attempt_by_token(session, lifecycle.hash_token(token))
    if attempt is None:
        raise Unauthorized("the token belongs to no attempt: its job was deleted, or it is not one of ours")
    return attempt


def store_batch(session: Session, attempt: Attempt, batch: Batch) -> BatchAnswer:
    """Store what is new in a batch and say which record is awaited next.

    Raises:
        Conflict: records before this batch are missing; the extension ``next_seq`` names the first of them.
        Unauthorized: a later attempt has taken this one's place.
    """
    job = jobs.lock(session, attempt.job_id)
    if attempt.number != job.attempt:
        raise Unauthorized(f"attempt {attempt.number} of {job.id} was replaced by attempt {job.attempt}")
    position = session.get(IngestSource, (job.id, attempt.number, batch.source))
    if position is None:
        position = IngestSource(job_id=job.id, attempt=attempt.number, source=batch.source, next_seq=1)
        session.add(position)
    if batch.first_seq > position.next_seq:
        raise Conflict(
            f"{batch.source} sent records from {batch.first_seq}, but {position.next_seq} has not arrived",
            next_seq=position.next_seq,
        )
    fresh = batch.records[position.next_seq - batch.first_seq :]
    position.next_seq += len(fresh)

    # A rank's word: the driver speaks before the workers have started.
    if job.state == JobState.STARTING and fresh and batch.source != "driver":
        jobs.transition(session, job, JobState.RUNNING, actor=batch.source, message="The run reports.")
    metrics.append(
        session,
        job,
        attempt.number,
        [metrics.Step(r.step, r.time, r.metrics) for r in fresh if isinstance(r, StepRecord)],
    )
    memory.append(session, job, attempt.number, [r for r in fresh if isinstance(r, MemoryRecord)])
    for record in fresh:
        _store_single(session, job, attempt.number, batch.source, record)
    return BatchAnswer(next_seq=position.next_seq, cancel=job.cancel_requested_at is not None)


def _store_single(session: Session, job: Job, attempt: int, source: str, record: object) -> None:
    if isinstance(record, EventRecord):
        events.append(
            session,
            job,
            actor=source,
            name=record.name,
            message=record.message,
            data=record.data,
            time=record.time,
        )
    elif isinstance(record, ArtifactRecord):
        artifacts.add(session, job, attempt, record)
    elif isinstance(record, OutcomeRecord):
        lifecycle.end(session, job, record, actor=source)
