"""Answers about the records of runs: metrics, memory, logs, files."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from symadj.api.schemas.answer import Answer
from symadj.service.contract.records import Phase, Stream
from symadj.service.contract.result import Number

__all__ = [
    "ArtifactList",
    "ArtifactRead",
    "BucketRead",
    "LogLineRead",
    "LogPage",
    "MemoryPhase",
    "MemoryPointRead",
    "MemoryPoints",
    "MemorySummary",
    "MetricList",
    "MetricPointRead",
    "MetricRead",
    "MetricSeriesRead",
    "SeriesList",
]


Thinned = Annotated[
    bool, Field(description="The server's retention has removed records of this job: not all that it made are here.")
]


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
    thinned: Thinned = False


class SeriesList(Answer):
    """Several metrics, each downsampled."""

    items: list[MetricSeriesRead]


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
    gradient: str | None = Field(description="Of a training; null of a job that scores rows.")
    ranks: int
    phases: list[MemoryPhase]
    thinned: Thinned = False


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
    thinned: Thinned = False


class LogLineRead(Answer):
    """A line that a process of a run printed, or one that stands for those that were left out there."""

    seq: int
    attempt: int
    rank: int | None = Field(description="null: the driver's.")
    stream: Stream | None = Field(
        description="`output` is stdout and stderr in one, as Ray has a driver's; null where lines were left out."
    )
    time: datetime = Field(description="When it was read, within a second of when it was printed.")
    text: str = Field(description="Without its end of line; secrets are masked, and a long line is cut.")
    left_out_bytes: int = Field(description="Of the output, which were left out here; 0 of a printed line.")

    @property
    def source(self) -> str:
        """Who printed it: ``driver`` or ``rank-0``."""
        return "driver" if self.rank is None else f"rank-{self.rank}"

    @property
    def words(self) -> str:
        """The text, or how much was left out."""
        return f"[{self.left_out_bytes:,} bytes were left out here]" if self.left_out_bytes else self.text


class LogPage(Answer):
    """Lines in the order in which they were stored: those of one process in the order in which it printed them."""

    items: list[LogLineRead]
    next_after: int = Field(description="Pass as `after` for what comes later.")
    complete: bool = Field(description="The job has ended and nothing comes after this answer.")


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
