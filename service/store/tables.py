"""The store's tables (SQLAlchemy 2). SQLite and PostgreSQL alike; migrations are beside, in ``migrations/``."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "ApiKey",
    "Artifact",
    "Attempt",
    "AuditEntry",
    "Base",
    "Checkpoint",
    "DataSummaryRow",
    "DeletedJob",
    "Event",
    "IdempotencyKey",
    "IngestSource",
    "Job",
    "JobAlerts",
    "JobLabel",
    "LogLine",
    "LogSource",
    "MetricSeries",
    "PlanRow",
    "SinkPosition",
    "Sweep",
    "SweepTrial",
    "TelemetryBlock",
    "Upload",
    "Webhook",
    "WebhookDelivery",
]


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC, also on SQLite, which keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; a naive datetime is a bug and refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: the store keeps aware ones")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what was stored, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class NanFloat(TypeDecorator[float]):
    """Numbers of which NaN is one, stored as NULL: SQL has no NaN that both databases compare alike."""

    impl = Float
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """Store NULL for NaN."""
        return None if value is None or math.isnan(value) else value

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:
        """Return NaN for NULL."""
        return math.nan if value is None else value


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON, int: BigInteger, float: Float}  # noqa: RUF012


class Job(Base):
    """One training job; the truth about it."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    owner: Mapped[str] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]]
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    # Why the run must stop at its next step (``StopReason``), and since when.
    stop_requested: Mapped[str | None] = mapped_column(String(16))
    stop_requested_at: Mapped[datetime | None]
    # Checkpoints that were asked for, in all: the run writes one whenever the number has grown.
    checkpoints_asked: Mapped[int] = mapped_column(default=0)
    # Of a job that waits for its next attempt: not before then.
    not_before: Mapped[datetime | None]
    attempts_lost: Mapped[int] = mapped_column(default=0)
    # The job and the checkpoint that this one goes on from.
    parent_id: Mapped[str | None] = mapped_column(String(64), index=True)
    parent_checkpoint: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(String(32))
    message: Mapped[str | None] = mapped_column(Text)
    reason_data: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    # What the server's retention has left of its telemetry; None: it was not its turn yet.
    telemetry: Mapped[str | None] = mapped_column(String(16))
    # The highest peak of any rank so far, so that polling for progress reads no telemetry.
    host_peak_bytes: Mapped[int | None]
    device_peak_bytes: Mapped[int | None]
    # Last sequence numbers given out; read and raised under the row's lock, so that a reader who has seen
    # number n will never see a smaller one appear (which autoincrement does not promise on PostgreSQL).
    event_seq: Mapped[int] = mapped_column(default=0)
    metric_seq: Mapped[int] = mapped_column(default=0)
    memory_seq: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        Index("ix_jobs_created", "created_at", "id"),
        # All by which the queue is put in order and counted.
        Index("ix_jobs_queue", "state", "priority", "created_at", "id"),
        Index("ix_jobs_owner", "owner", "created_at", "id"),
        Index("ix_jobs_retention", "telemetry", "finished_at"),
    )


class JobLabel(Base):
    """A label of a job's spec, to find the job by."""

    __tablename__ = "job_labels"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(256))

    __table_args__ = (Index("ix_job_labels_name_value", "name", "value", "job_id"),)


class Attempt(Base):
    """One try at a job: one Ray job.

    ``outcome`` is the state in which it ended, "lost", "stopped" (the service or a node was) or "not_started".
    """

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    submission_id: Mapped[str] = mapped_column(String(100), unique=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    workers: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(32))
    message: Mapped[str | None] = mapped_column(Text)
    resumed_from_step: Mapped[int | None]
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]


class Event(Base):
    """Something that happened to a job."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[datetime]
    attempt: Mapped[int]
    actor: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]


class IngestSource(Base):
    """How far the records of one source of one attempt are stored, and when it was last heard of."""

    __tablename__ = "ingest_sources"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(32), primary_key=True)
    next_seq: Mapped[int]
    seen_at: Mapped[datetime | None]
    closed: Mapped[bool] = mapped_column("farewell", default=False)


class MetricSeries(Base):
    """One metric of one job: the newest value, without a look at the points."""

    __tablename__ = "metric_series"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    points: Mapped[int]
    last_seq: Mapped[int]
    last_step: Mapped[int]
    last_value: Mapped[float] = mapped_column(NanFloat, nullable=True)


class TelemetryBlock(Base):
    """Some neighbouring records of a series of a job, a column of numbers a cell (``columns.pack``).

    It has no foreign key: the blocks of a deleted job go some at a time, while others write (``DeletedJob``).
    """

    __tablename__ = "telemetry_blocks"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    # A metric's name, or "rank/phase" of memory, each behind its kind.
    series: Mapped[str] = mapped_column(String(120), primary_key=True)
    # The number of its first record when it was begun: no record of it has a lower one.
    first_seq: Mapped[int] = mapped_column(primary_key=True)
    last_seq: Mapped[int]
    first_step: Mapped[int]
    last_step: Mapped[int]
    records: Mapped[int]
    # What is drawn comes first: SQLite reads a row up to the last cell that is asked for.
    steps: Mapped[bytes]
    values: Mapped[bytes]
    seqs: Mapped[bytes]
    attempts: Mapped[bytes]
    times: Mapped[bytes]

    __table_args__ = (Index("ix_telemetry_blocks_steps", "job_id", "series", "last_step"),)


class DeletedJob(Base):
    """A job that was deleted, and whose telemetry may still be there."""

    __tablename__ = "deleted_jobs"

    job_id: Mapped[str] = mapped_column(String(64), primary_key=True)


class LogSource(Base):
    """The logs of one process of an attempt: how many bytes its lines take now, and where the part ends that is kept.

    ``head_end`` is the number of the last line of that part, None while nothing had to be left out behind it.
    """

    __tablename__ = "log_sources"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(32), primary_key=True)
    bytes: Mapped[int]
    head_end: Mapped[int | None]


class LogLine(Base):
    """A line that a process of an attempt wrote; one without a stream stands for ``left_out_bytes`` of them."""

    __tablename__ = "log_lines"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    source: Mapped[str] = mapped_column(String(32))
    stream: Mapped[str | None] = mapped_column(String(16))
    time: Mapped[datetime]
    text: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int]
    left_out_bytes: Mapped[int]

    __table_args__ = (Index("ix_log_lines_source", "job_id", "attempt", "source", "seq"),)


class DataSummaryRow(Base):
    """What the newest attempt that has read a job's data says of them."""

    __tablename__ = "data_summaries"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
    read_at: Mapped[datetime]
    summary: Mapped[dict[str, Any]]


class PlanRow(Base):
    """What the newest attempt of a job that has said so will take in memory."""

    __tablename__ = "plans"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int]
    planned_at: Mapped[datetime]
    plan: Mapped[dict[str, Any]]


class Artifact(Base):
    """A finished file of a job."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    media_type: Mapped[str] = mapped_column(String(100))
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    attempt: Mapped[int]
    created_at: Mapped[datetime]


class Checkpoint(Base):
    """A stored state of a job's training; its files lie in the job's folder under its name."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    step: Mapped[int]
    attempt: Mapped[int]
    created_at: Mapped[datetime]
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    cause: Mapped[str] = mapped_column(String(16))
    validation_nll: Mapped[float | None]


class IdempotencyKey(Base):
    """A repeatable POST: who sent which body under which key, and the answer."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(100), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]


class Upload(Base):
    """A file that an owner has sent to be trained on; what it holds never changes."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]

    __table_args__ = (
        # One for the same content, however often and at whatever times it is sent.
        Index("ix_uploads_content", "owner", "sha256", "format", unique=True),
        Index("ix_uploads_created", "created_at", "id"),
    )


class Sweep(Base):
    """A search over parameters of a job spec. ``revision`` rises with all that is decided about its trials."""

    __tablename__ = "sweeps"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    owner: Mapped[str] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]]
    # Of what the owner wrote, for a request that is repeated under its Idempotency-Key.
    body_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    state: Mapped[str] = mapped_column(String(16))
    message: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    revision: Mapped[int] = mapped_column(default=0)

    __table_args__ = (Index("ix_sweeps_created", "created_at", "id"),)


class SweepTrial(Base):
    """One trial of a sweep: the values of its parameters, and what came of its job, which may be deleted by now.

    ``reports`` has the steps and values that the pruner was told, up to the metric's number ``reports_seq``; ``attrs``
    is what sampler and pruner note about a trial. With them, the study can be built again.
    """

    __tablename__ = "sweep_trials"

    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), unique=True)
    parameters: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    value: Mapped[float | None]
    message: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    reports: Mapped[list[Any]]
    reports_seq: Mapped[int] = mapped_column(default=0)
    attrs: Mapped[dict[str, Any]]

    __table_args__ = (Index("ix_sweep_trials_open", "state", "sweep_id"),)


class ApiKey(Base):
    """A key to the API. Its ``id`` is a part of the key that is not secret; ``hash`` is its keyed hash."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(8), primary_key=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    # The owner of the jobs that are submitted with it; several keys may have one name.
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditEntry(Base):
    """A request that changed something, or was refused for who sent it. It outlives the job and the key it speaks of.

    ``who`` and ``role`` are None of a request without a valid key. ``target`` is the id in its path, ``made`` the id of
    what it made. ``left_out`` counts the requests without a valid key since the one before that have no entry.
    """

    __tablename__ = "audit_entries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    time: Mapped[datetime]
    who: Mapped[str | None] = mapped_column(String(100))
    role: Mapped[str | None] = mapped_column(String(16))
    key_id: Mapped[str | None] = mapped_column(String(8))
    method: Mapped[str] = mapped_column(String(16))
    route: Mapped[str] = mapped_column(String(200))
    target: Mapped[str | None] = mapped_column(String(200))
    made: Mapped[str | None] = mapped_column(String(200))
    status: Mapped[int] = mapped_column(Integer)
    request_id: Mapped[str] = mapped_column(String(64))
    address: Mapped[str | None] = mapped_column(String(64))
    left_out: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        Index("ix_audit_entries_time", "time", "id"),
        Index("ix_audit_entries_who", "who", "time", "id"),
    )


class Webhook(Base):
    """An address that is told of events of its owner's jobs, or of everybody's."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(100), index=True)
    url: Mapped[str] = mapped_column(Text)
    # Deliveries are signed with it, so it can't be kept as a hash.
    secret: Mapped[str] = mapped_column(String(100))
    events: Mapped[list[str]] = mapped_column(JSON)
    labels: Mapped[dict[str, Any]]
    all_owners: Mapped[bool]
    created_at: Mapped[datetime]
    # Deliveries that were given up, since one arrived.
    failures: Mapped[int] = mapped_column(default=0)
    disabled_at: Mapped[datetime | None]
    disabled_because: Mapped[str | None] = mapped_column(Text)


class WebhookDelivery(Base):
    """What a webhook is to be told: written in the transaction of the event itself.

    ``state`` is "pending", "delivered" or "failed"; a pending one waits until ``next_try_at``, or is being sent by who
    holds the lease.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(String(64))
    event: Mapped[str] = mapped_column(String(64))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(16), default="pending")
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime]
    status: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(Text)
    settled_at: Mapped[datetime | None]
    lease_token: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_webhook_deliveries_due", "state", "next_try_at"),
        Index("ix_webhook_deliveries_of", "webhook_id", "created_at", "id"),
    )


class JobAlerts(Base):
    """How far a training was looked at for alerts: up to the numbers of its metrics and events, with what is kept.

    ``active`` has the rules that hold now; it is ``open`` until the job has ended and was looked at once more.
    ``revision`` rises with every change, so that one of several dispatchers makes it.
    """

    __tablename__ = "job_alerts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    open: Mapped[bool] = mapped_column(index=True)
    active: Mapped[list[str]] = mapped_column(JSON)
    metric_seq: Mapped[int]
    event_seq: Mapped[int]
    kept: Mapped[dict[str, Any]]
    revision: Mapped[int]


class SinkPosition(Base):
    """How far a sink was fed of a job: up to this number of its metrics, and whether it knows of its end."""

    __tablename__ = "sink_positions"

    # As SYMADJ_SINKS has it.
    sink: Mapped[str] = mapped_column(String(500), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    metric_seq: Mapped[int]
    ended: Mapped[bool]
