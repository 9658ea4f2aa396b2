"""Queries on jobs and attempts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from symadj.service.contract.states import ACTIVE, TRANSITIONS, JobState, ReasonCode
from symadj.service.errors import NotFoundError
from symadj.service.store import cursors, events
from symadj.service.store.cursors import Page
from symadj.service.store.tables import (
    Artifact,
    Attempt,
    Checkpoint,
    DeletedJob,
    IdempotencyKey,
    Job,
    JobLabel,
    LogSource,
    Upload,
    UtcDateTime,
)

__all__ = [
    "LONGEST_PAUSE_SECONDS",
    "QueuePlace",
    "active",
    "add",
    "add_attempt",
    "attempt",
    "attempt_by_token",
    "attempts",
    "attempts_finished_since",
    "attempts_of",
    "bytes_of",
    "count_by_state",
    "count_queued",
    "delete",
    "find",
    "find_locked",
    "first_queued",
    "get",
    "idempotency_key",
    "lock",
    "lock_queue",
    "next_queued",
    "not_started",
    "page",
    "places",
    "put_labels",
    "remember_key",
    "transition",
]


# Between two attempts, whatever the settings say.
LONGEST_PAUSE_SECONDS = 300.0
_EARLIEST = sa.literal(datetime(1, 1, 1, tzinfo=UTC), UtcDateTime())
_QUEUE_LOCK = 0x73796D71756575  # any number of our own, for PostgreSQL's advisory lock


@dataclass(frozen=True)
class QueuePlace:
    """Where a job is in the queue, and what holds a part of the cluster meanwhile.

    Attributes:
        place: counted from 1.
        own_active: active jobs of its owner.
        active: active jobs of all owners.
    """

    place: int
    own_active: int
    active: int


def add(session: Session, job: Job) -> None:
    """Store a new job, the labels of its spec and its first event."""
    session.add(job)
    events.append(session, job, actor=job.owner, name="queued", message="The job was accepted.")
    session.add_all(_labels(job))


def put_labels(session: Session, job: Job) -> None:
    """Let a job be found by the labels of its spec, and by no others."""
    session.execute(sa.delete(JobLabel).where(JobLabel.job_id == job.id))
    session.add_all(_labels(job))


def _labels(job: Job) -> list[JobLabel]:
    labels = job.spec.get("labels", {})
    return [JobLabel(job_id=job.id, name=name, value=value) for name, value in labels.items()]


def get(session: Session, job_id: str) -> Job:
    """Return a job.

    Raises:
        NotFoundError: there is none of this id.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


def find(session: Session, job_id: str) -> Job | None:
    """Return a job, or None."""
    return session.get(Job, job_id)


def lock(session: Session, job_id: str) -> Job:
    """Return a job and hold its row until the session commits: who holds it gives out its sequence numbers.

    Raises:
        NotFoundError: there is none of this id.
    """
    job = find_locked(session, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


def find_locked(session: Session, job_id: str) -> Job | None:
    """Return a job as ``lock`` does, or None."""
    return session.get(Job, job_id, with_for_update=True, populate_existing=True)


def lock_queue(session: Session) -> None:
    """Keep all others from deciding about the queue until the session commits: dispatchers and submissions alike.

    On SQLite a session that writes is alone anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_QUEUE_LOCK)))


def page(
    session: Session,
    *,
    states: Collection[JobState] = (),
    name: str | None = None,
    owner: str | None = None,
    text: str | None = None,
    labels: Collection[tuple[str, str]] = (),
    limit: int,
    after: str | None = None,
) -> Page[Job]:
    """Return jobs, newest first, in one of ``states``, with the name, the owner and all the labels asked for.

    ``text`` is a part of the name or of the id; upper and lower case are the same (on SQLite, of the letters of ASCII).
    """
    query = sa.select(Job)
    if states:
        query = query.where(Job.state.in_(states))
    if name is not None:
        query = query.where(Job.name == name)
    if owner is not None:
        query = query.where(Job.owner == owner)
    if text is not None:
        query = query.where(Job.name.icontains(text, autoescape=True) | Job.id.icontains(text, autoescape=True))
    for label, value in labels:
        query = query.where(
            Job.id.in_(sa.select(JobLabel.job_id).where(JobLabel.name == label, JobLabel.value == value))
        )
    return cursors.page(session, query, Job.created_at, limit=limit, after=after)


def transition(
    session: Session,
    job: Job,
    to: JobState,
    *,
    actor: str,
    message: str,
    data: dict[str, Any] | None = None,
    **columns: Any,
) -> bool:
    """Move a job to another state and write the event; return False where the job is not in a state that allows it.

    The update itself is guarded by the states that may precede ``to``, so that two processes can't both move a job.
    """
    now = datetime.now(UTC)
    allowed = [state for state, following in TRANSITIONS.items() if to in following]
    if to is JobState.RUNNING and job.started_at is None:
        columns.setdefault("started_at", now)
    if not TRANSITIONS[to]:
        columns.setdefault("finished_at", now)
    moved = session.execute(
        sa.update(Job)
        .where(Job.id == job.id, Job.state.in_(allowed))
        .values(state=to.value, updated_at=now, **columns)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    ).scalar_one_or_none()
    session.refresh(job)
    if moved is None:
        return False
    events.append(session, job, actor=actor, name=to.value, message=message, data=data)
    return True


def next_queued(
    session: Session,
    *,
    limit: int,
    now: datetime,
    passed_over: Collection[str] = (),
    owners: Collection[str] = (),
) -> Sequence[Job]:
    """Return the first jobs of the queue that may start now: highest priority, then first come.

    Left out are the jobs whose ids are ``passed_over``, and all jobs of ``owners``. A pause that would last longer than
    any does was written before the clock was set back: it is over.
    """
    longest = now + timedelta(seconds=LONGEST_PAUSE_SECONDS)
    pauses = sa.and_(Job.not_before > now, Job.not_before <= longest)
    query = (
        sa.select(Job)
        .where(Job.state == JobState.QUEUED, sa.or_(Job.not_before.is_(None), sa.not_(pauses)))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(limit)
    )
    if passed_over:
        query = query.where(Job.id.not_in(passed_over))
    if owners:
        query = query.where(Job.owner.not_in(owners))
    return session.scalars(query).all()


def newest_id(session: Session) -> str | None:
    """Return the id of the job that was submitted last, to the millisecond; None where there is none."""
    return session.scalar(sa.select(sa.func.max(Job.id)))


def places(session: Session, job_ids: Collection[str]) -> dict[str, QueuePlace]:
    """Return the places of jobs in the queue, of those that are in it.

    The queue is counted once, up to the last of them, in its index alone.
    """
    found: dict[str, QueuePlace] = {}
    for job_id, before_id, ahead, own_active, active in session.execute(_ahead_in_queue(), {"job_ids": [*job_ids]}):
        # Those ahead of it; where another of them is before it, those from that one on.
        place = ahead + (1 if before_id is None else found[before_id].place)
        found[job_id] = QueuePlace(place, int(own_active or 0), int(active or 0))
    return found


@cache  # it takes longer to make than to answer
def _ahead_in_queue() -> sa.Select[str, str | None, int, int | None, int | None]:
    order = (Job.created_at, Job.id)
    before = [sa.func.lag(column).over(partition_by=Job.priority, order_by=order) for column in order]
    asked: sa.BindParameter[str] = sa.bindparam("job_ids", expanding=True)
    own = (
        sa.select(
            Job.id,
            Job.owner,
            Job.priority,
            Job.created_at,
            before[0].label("before_time"),
            before[1].label("before_id"),
        )
        .where(Job.state == JobState.QUEUED, Job.id.in_(asked))
        .subquery()
    )
    other = orm.aliased(Job)
    queue = sa.select(sa.func.count()).select_from(other).where(other.state == JobState.QUEUED)
    place = sa.tuple_(other.created_at, other.id)
    since = sa.tuple_(sa.func.coalesce(own.c.before_time, _EARLIEST), sa.func.coalesce(own.c.before_id, ""))
    alike = queue.where(
        other.priority == own.c.priority, place >= since, place < sa.tuple_(own.c.created_at, own.c.id)
    ).scalar_subquery()
    higher = queue.where(other.priority > own.c.priority).scalar_subquery()
    ahead = sa.case((own.c.before_id.is_(None), higher + alike), else_=alike)
    active = (
        sa.select(Job.owner, sa.func.count().label("jobs"))
        .where(Job.state.in_(ACTIVE))
        .group_by(Job.owner)
        .cte("active")
    )
    own_active = sa.select(active.c.jobs).where(active.c.owner == own.c.owner).scalar_subquery()
    all_active = sa.select(sa.func.sum(active.c.jobs)).scalar_subquery()
    return sa.select(own.c.id, own.c.before_id, ahead, own_active, all_active).order_by(
        own.c.priority, own.c.created_at, own.c.id
    )


def first_queued(session: Session, owner: str | None, *, limit: int) -> Sequence[Job]:
    """Return the jobs of an owner (None: of all) that are first in the queue, in its order."""
    query = sa.select(Job).where(Job.state == JobState.QUEUED)
    if owner is not None:
        query = query.where(Job.owner == owner)
    return session.scalars(query.order_by(Job.priority.desc(), Job.created_at, Job.id).limit(limit)).all()


def bytes_of(session: Session, owner: str) -> int:
    """Return the bytes of the checkpoints, artifacts and logs of an owner's jobs, and of the owner's uploads."""
    of_jobs = (
        sa.select(sa.func.sum(table.bytes)).join(Job, Job.id == table.job_id).where(Job.owner == owner)
        for table in (Checkpoint, Artifact, LogSource)
    )
    of_uploads = sa.select(sa.func.sum(Upload.bytes)).where(Upload.owner == owner)
    sums = session.execute(sa.select(*(query.scalar_subquery() for query in (*of_jobs, of_uploads)))).one()
    return sum(int(bytes_of_kind or 0) for bytes_of_kind in sums)


def count_queued(session: Session, owner: str | None) -> int:
    """Return how many jobs of an owner (None: of all) wait in the queue."""
    query = sa.select(sa.func.count()).select_from(Job).where(Job.state == JobState.QUEUED)
    if owner is not None:
        query = query.where(Job.owner == owner)
    return session.execute(query).scalar_one()


def active(session: Session) -> Sequence[Job]:
    """Return the jobs that hold a part of the cluster."""
    return session.scalars(sa.select(Job).where(Job.state.in_(ACTIVE)).order_by(Job.created_at, Job.id)).all()


def delete(session: Session, job: Job) -> None:
    """Delete a job and all that hangs on it, but its telemetry: call ``blocks.delete_some`` for that, afterwards."""
    session.merge(DeletedJob(job_id=job.id))
    session.delete(job)


def count_by_state(session: Session) -> dict[JobState, int]:
    """Return how many jobs are in each state, zeros included."""
    rows = session.execute(sa.select(Job.state, sa.func.count()).group_by(Job.state)).all()
    return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}


def add_attempt(session: Session, attempt: Attempt) -> None:
    """Store a new attempt."""
    session.add(attempt)


def attempt(session: Session, job_id: str, number: int) -> Attempt:
    """Return an attempt that is known to exist."""
    return session.get_one(Attempt, (job_id, number))


def attempts(session: Session, job_id: str) -> Sequence[Attempt]:
    """Return the attempts of a job, the first one first."""
    return session.scalars(sa.select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)).all()


def attempts_of(session: Session, job_ids: Collection[str]) -> dict[str, list[Attempt]]:
    """Return the attempts of several jobs, by job, the first one first."""
    found: dict[str, list[Attempt]] = {job_id: [] for job_id in job_ids}
    if found:
        rows = session.scalars(sa.select(Attempt).where(Attempt.job_id.in_(found)).order_by(Attempt.number))
        for row in rows:
            found[row.job_id].append(row)
    return found


def attempts_finished_since(session: Session, time: datetime) -> Sequence[Attempt]:
    """Return the attempts that Ray had taken and that finished at this time or later."""
    return session.scalars(
        sa.select(Attempt).where(Attempt.finished_at >= time, Attempt.submitted_at.is_not(None))
    ).all()


def not_started(session: Session, job_id: str, reason: ReasonCode) -> int:
    """Return how many attempts of a job did not start for this reason, since Ray took one last; open ones count."""
    taken = sa.select(sa.func.max(Attempt.number)).where(Attempt.job_id == job_id, Attempt.submitted_at.is_not(None))
    query = (
        sa.select(sa.func.count())
        .select_from(Attempt)
        .where(
            Attempt.job_id == job_id,
            Attempt.number > sa.func.coalesce(taken.scalar_subquery(), 0),
            sa.or_(Attempt.reason.is_(None), Attempt.reason == reason.value),
        )
    )
    return session.execute(query).scalar_one()


def attempt_by_token(session: Session, token_hash: bytes) -> Attempt | None:
    """Return the attempt to which a token belongs."""
    return session.scalars(_BY_TOKEN, {"token_hash": token_hash}).one_or_none()


# It takes longer to make than to answer, and every batch asks it.
_BY_TOKEN = sa.select(Attempt).where(Attempt.token_hash == sa.bindparam("token_hash"))


def idempotency_key(session: Session, owner: str, key: str) -> IdempotencyKey | None:
    """Return what was answered to this owner under this key."""
    return session.get(IdempotencyKey, (owner, key))


def remember_key(session: Session, key: IdempotencyKey) -> None:
    """Keep an answer for repetitions of its request."""
    session.add(key)
