"""What the API answers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.records import Number, Phase
from service.states import JobState, ReasonCode

if TYPE_CHECKING:  # the client reads these answers and needs no database for it
    from service.store.tables import Job, MetricSeries

__all__ = [
    "ArtifactList",
    "ArtifactRead",
    "BucketRead",
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


class JobSummary(Answer):
    """A job in a list."""

    id: str
    name: str
    owner: str
    state: JobState
    priority: int
    attempt: int = Field(description="Tries so far, counted from 1; 0 before the first.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    reason: ReasonCode | None


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
        summary = JobSummary.model_validate(job).model_dump()
        return cls(**summary, labels=spec["labels"], spec=spec, progress=progress, failure=failure, result=job.result)


def value_or_nan(stored: float | None) -> float:
    """Return a stored value; NULL is NaN."""
    return float("nan") if stored is None else stored


class JobList(Answer):
    """A page of jobs, newest first."""

    items: list[JobSummary]
    has_more: bool
    next_after: str | None = Field(description="Pass as `after` for the next page.")


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
