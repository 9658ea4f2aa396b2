"""What the API answers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.records import Number, Phase
from service.states import CheckpointCause, JobState, ReasonCode, StopWish

if TYPE_CHECKING:  # the client reads these answers and needs no database for it
    from service.store.tables import Job, MetricSeries

__all__ = [
    "ArtifactList",
    "ArtifactRead",
    "AttemptList",
    "AttemptRead",
    "BucketRead",
    "CheckpointList",
    "CheckpointRead",
    "DatasetList",
    "DatasetRead",
    "EventList",
    "EventRead",
    "Health",
    "JobList",
    "JobRead",
    "JobSummary",
    "MemoryPhase",
    "MemoryPointRead",
    "MemoryPoints",
    "MemorySummary",
    "MetricList",
    "MetricPointRead",
    "MetricRead",
    "MetricSeriesRead",
    "Readiness",
    "UsageRead",
]


class Answer(BaseModel):
    """Base: read from rows; non-finite numbers as the strings "NaN", "Infinity", "-Infinity"."""

    model_config = ConfigDict(from_attributes=True, ser_json_inf_nan="strings")


class Failure(Answer):
    """Why a job failed."""

    code: ReasonCode
    message: str
    data: dict[str, Any] = Field(description="Where it happened, and advice.")


class Progress(Answer):
    """How far a job is, by the newest records."""

    step: int = Field(description="Optimiser steps completed.")
    max_steps: int | None = Field(description="null where time, not steps, ends the training.")
    latest: dict[str, Number] = Field(description="Every metric's newest value.")
    host_peak_bytes: int | None = Field(description="Highest host peak of any rank so far.")
    device_peak_bytes: int | None = Field(description="Highest device peak of any rank so far.")


class ParentRead(Answer):
    """The checkpoint of another job that a job began with."""

    job: str
    checkpoint: str


class JobSummary(Answer):
    """A job in a list."""

    id: str
    name: str
    owner: str
    state: JobState
    priority: int
    attempt: int = Field(description="Tries so far, counted from 1; 0 before the first.")
    attempts_lost: int = Field(description="Of these, how many ended because workers or the cluster were lost.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    not_before: datetime | None = Field(
        description="Of a job that waits after a lost attempt: when the next may start."
    )
    stop_requested: StopWish | None = Field(description="It is to stop at its next step, for this reason.")
    stop_requested_at: datetime | None
    parent: ParentRead | None = Field(description="null: the job began from random weights.")
    reason: ReasonCode | None

    @classmethod
    def of_row(cls, job: Job) -> JobSummary:
        """Return the answer for a stored job."""
        names = cls.model_fields.keys() & JobSummary.model_fields.keys() - {"parent"}
        values = {name: getattr(job, name) for name in names}
        parent = job.parent_id and {"job": job.parent_id, "checkpoint": job.parent_checkpoint}
        return JobSummary.model_validate(values | {"parent": parent})


class JobRead(JobSummary):
    """A job, whole."""

    labels: dict[str, str]
    spec: dict[str, Any] = Field(
        description="As submitted, with every default written out; its shape is that of JobSpec when it was submitted."
    )
    progress: Progress
    failure: Failure | None
    result: dict[str, Any] | None = Field(
        description="Of a job that succeeded: test NLL in nats, how sure it is and what it stands beside, times."
    )

    @classmethod
    def of(cls, job: Job, series: list[MetricSeries]) -> JobRead:
        """Return the answer for a job and its metrics."""
        # As stored, whatever version stored it: this one's rules are for new specs.
        spec = job.spec
        failure = None
        if job.reason is not None:
            failure = Failure(code=ReasonCode(job.reason), message=job.message or "", data=job.reason_data or {})
        progress = Progress(
            step=max((item.last_step for item in series), default=0),
            max_steps=spec["stop"].get("max_steps"),
            latest={item.name: value_or_nan(item.last_value) for item in series},
            host_peak_bytes=job.host_peak_bytes,
            device_peak_bytes=job.device_peak_bytes,
        )
        summary = JobSummary.of_row(job).model_dump()
        return cls(**summary, labels=spec["labels"], spec=spec, progress=progress, failure=failure, result=job.result)


def value_or_nan(stored: float | None) -> float:
    """Return a stored value; NULL is NaN."""
    return float("nan") if stored is None else stored


class JobList(Answer):
    """A page of jobs, newest first."""

    items: list[JobSummary]
    has_more: bool
    next_after: str | None = Field(description="Pass as `after` for the next page.")


class AttemptRead(Answer):
    """One try at a job: one Ray job."""

    number: int
    submission_id: str = Field(description="Of the Ray job.")
    workers: int = Field(description="DDP ranks; with resources.min_workers fewer than resources.workers, perhaps.")
    created_at: datetime
    submitted_at: datetime | None = Field(description="When Ray took it.")
    finished_at: datetime | None
    outcome: str | None = Field(description="The state in which it ended, or `lost`; null while it goes on.")
    reason: ReasonCode | None
    message: str | None
    resumed_from_step: int | None = Field(description="null: it began from the start, or has not begun yet.")


class AttemptList(Answer):
    """All attempts of a job in order."""

    items: list[AttemptRead]


class CheckpointRead(Answer):
    """A stored state of a job's training, from which it or another job can go on."""

    name: str
    step: int = Field(description="Steps completed.")
    attempt: int
    created_at: datetime
    bytes: int
    sha256: str = Field(description="Of its manifest, which has those of its files.")
    cause: CheckpointCause
    validation_nll: Number | None = Field(description="The newest when it was written, in nats.")
    path: str = Field(description="Its folder on the storage of the service.")


class CheckpointList(Answer):
    """The checkpoints of a job that are kept, by step."""

    items: list[CheckpointRead]


class FolderUsage(Answer):
    """What the folder of one job takes."""

    job_id: str
    bytes: int


class UsageRead(Answer):
    """What the service takes: rows, bytes of the store, bytes of the jobs' folders."""

    rows: dict[str, int] = Field(description="By table of the store.")
    store_bytes: int = Field(description="Of the database: SQLite's file with its log, or PostgreSQL's own figure.")
    jobs_bytes: int = Field(description="Of the files of all jobs.")
    jobs: list[FolderUsage] = Field(description="The largest folders, largest first.")
    free_bytes: int = Field(description="Left on the disk of the jobs' folders.")


class EventRead(Answer):
    """Something that happened to a job."""

    seq: int
    time: datetime
    attempt: int
    actor: str = Field(description="Who caused it: an owner, the dispatcher, the driver, a rank.")
    name: str
    message: str
    data: dict[str, Any]


class EventList(Answer):
    """Events in order."""

    items: list[EventRead]
    next_after_seq: int = Field(description="Pass as `after_seq` for what comes later.")


class MetricRead(Answer):
    """One metric of a job."""

    name: str
    points: int
    last_seq: int
    last_step: int
    last_value: Number


class MetricList(Answer):
    """All metrics of a job by name."""

    items: list[MetricRead]


class MetricPointRead(Answer):
    """One value."""

    seq: int
    step: int
    time: datetime
    value: Number


class BucketRead(Answer):
    """Neighbouring points drawn together; a spike stays visible in its extremes."""

    first_step: int
    last_step: int
    points: int
    minimum: float | None = Field(description="Over the finite values, like maximum and mean.")
    maximum: float | None
    mean: float | None
    last: Number
    non_finite: int


class MetricSeriesRead(Answer):
    """Values of one metric: as stored (`points`), or downsampled (`buckets`)."""

    name: str
    points: list[MetricPointRead] = Field(description="Empty where buckets were asked for.")
    buckets: list[BucketRead] = Field(description="Empty where none were asked for.")
    next_after_seq: int = Field(description="Pass as `after_seq` for what comes later.")
    complete: bool = Field(description="The job has ended and nothing comes after this answer.")


MemoryBytes = Annotated[int | None, Field(description="Bytes; null where the platform has no such figure.")]


class MemoryPhase(Answer):
    """The highest peaks of one rank in one phase."""

    rank: int
    phase: Phase
    steps: int
    first_step: int
    last_step: int
    host_peak_bytes: MemoryBytes
    host_idle_bytes: Annotated[
        int | None, Field(description="The least that the process held when a step began: interpreter, weights.")
    ]
    host_above_idle_bytes: Annotated[
        int | None,
        Field(
            description="The highest peak above what was held when the same step began: what the phase needs. "
            "Without an attempt's first step, which also pays for what libraries set up once."
        ),
    ]
    device_peak_bytes: MemoryBytes
    device_idle_bytes: MemoryBytes
    device_above_idle_bytes: MemoryBytes


class MemorySummary(Answer):
    """Memory by rank and phase."""

    job_id: str
    gradient: str
    ranks: int
    phases: list[MemoryPhase]


class MemoryPointRead(Answer):
    """Memory of one rank in one phase of one step."""

    seq: int
    step: int
    rank: int
    phase: Phase
    time: datetime
    host_idle_bytes: MemoryBytes
    host_peak_bytes: MemoryBytes
    device_idle_bytes: MemoryBytes
    device_peak_bytes: MemoryBytes


class MemoryPoints(Answer):
    """Memory records in the order in which they were stored."""

    items: list[MemoryPointRead]
    next_after_seq: int


class ArtifactRead(Answer):
    """A finished file of a job."""

    name: str
    media_type: str
    bytes: int
    sha256: str
    attempt: int
    created_at: datetime
    url: str = Field(description="Where to download it.")
    path: str = Field(description="Where it lies on the storage of the service.")


class ArtifactList(Answer):
    """Files of a job by name."""

    items: list[ArtifactRead]


class DatasetRead(Answer):
    """A data set that a spec may name."""

    kind: str
    name: str
    description: str
    rows: int | None = Field(description="null: as many as the spec asks for.")
    dim: int
    licence: str
    source: str
    reference_test_nll: dict[str, float] = Field(
        description="Nats, after the default transforms, on the default split."
    )


class DatasetList(Answer):
    """The built-in data sets."""

    items: list[DatasetRead]


class Health(Answer):
    """The process is alive."""

    status: str = "ok"
    version: str


class Readiness(Answer):
    """Whether each part that a job needs answers: "ok", or what went wrong."""

    store: str
    ray: str
