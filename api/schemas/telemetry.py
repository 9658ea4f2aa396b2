"""Answers about the records of runs: metrics, memory, logs, files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic_core import to_json

from symadj.api.schemas.answer import Answer, NextAfterSeq
from symadj.service.contract.records import Phase, Stream
from symadj.service.contract.result import Number

if TYPE_CHECKING:
    from symadj.service.store.downsampling import Downsampled
    from symadj.service.store.metrics import MetricPoint

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
    "series_json",
    "series_list_json",
]


Thinned = Annotated[
    bool, Field(description="The server's retention has removed records of this job: not all that it made are here.")
]
MetricName = Annotated[str, Field(description="Of the metric: `loss`, `validation_nll`, `nfe_forward` ...")]
MetricValue = Annotated[Number, Field(description="In the metric's own unit: likelihoods in nats a row.")]
PhaseOfStep = Annotated[
    Phase, Field(description="Of a step; `validation` and `evaluation` follow one. Scoring rows is `forward` alone.")
]
Rank = Annotated[int, Field(description="Of the worker, from 0 on.")]


class MetricRead(Answer):
    """One metric of a job."""

    name: MetricName
    points: int = Field(description="Values that are stored, a step's newest one alone.")
    last_seq: int = Field(description="Number of the newest value.")
    last_step: int = Field(description="Step of `last_value`.")
    last_value: MetricValue


class MetricList(Answer):
    """All metrics of a job by name."""

    items: list[MetricRead] = Field(description="In the order of their names.")


class MetricPointRead(Answer):
    """One value."""

    seq: int = Field(description="Number of the value among the job's, in the order in which they were stored.")
    step: int = Field(
        description="Optimiser steps completed; 0: before the training. Of a job that scores rows, pieces of rows."
    )
    time: datetime = Field(description="When the run measured it.")
    value: MetricValue


class BucketRead(Answer):
    """Neighbouring points drawn together; a spike stays visible in its extremes."""

    first_step: int = Field(description="Step of its first point.")
    last_step: int = Field(description="Step of its last point.")
    points: int = Field(description="How many are drawn together.")
    minimum: float | None = Field(description="Smallest finite value; null where no value is finite.")
    maximum: float | None = Field(description="Largest finite value; null where no value is finite.")
    mean: float | None = Field(description="Mean of the finite values; null where no value is finite.")
    last: Number = Field(description="Value of its last point, finite or not.")
    non_finite: int = Field(description="Points whose value is NaN or infinite.")


class MetricSeriesRead(Answer):
    """Values of one metric: as stored (`points`), or downsampled (`buckets`)."""

    name: MetricName
    points: list[MetricPointRead] = Field(description="Empty where buckets were asked for.")
    buckets: list[BucketRead] = Field(description="Empty where none were asked for.")
    next_after_seq: NextAfterSeq
    complete: bool = Field(description="The job has ended and nothing comes after this answer.")
    thinned: Thinned = False


class SeriesList(Answer):
    """Several metrics, each downsampled."""

    items: list[MetricSeriesRead] = Field(description="In the order asked for; else by name.")


def series_json(
    name: str,
    *,
    points: Sequence[MetricPoint] = (),
    buckets: Sequence[Downsampled] = (),
    next_after_seq: int,
    complete: bool,
    thinned: bool,
) -> bytes:
    """Return a `MetricSeriesRead` in JSON. Values as models of their own would take five times as long."""
    content = {
        "name": name,
        "points": [{"seq": seq, "step": step, "time": time, "value": value} for seq, step, time, value in points],
        "buckets": [vars(bucket) for bucket in buckets],
        "next_after_seq": next_after_seq,
        "complete": complete,
        "thinned": thinned,
    }
    return to_json(content, inf_nan_mode="strings")


def series_list_json(items: Iterable[bytes]) -> bytes:
    """Return a `SeriesList` in JSON, of what `series_json` has made."""
    return b'{"items":[' + b",".join(items) + b"]}"


HostPeak = Annotated[
    int | None,
    Field(description="Highest resident memory of the process, bytes; null where the platform has no such figure."),
]
DevicePeak = Annotated[
    int | None, Field(description="The most that the accelerator's allocator held, bytes; null without an accelerator.")
]


class MemoryPhase(Answer):
    """The highest peaks of one rank in one phase."""

    rank: Rank
    phase: PhaseOfStep
    steps: int = Field(description="Steps that were measured, of those asked for.")
    first_step: int = Field(description="The lowest of them.")
    last_step: int = Field(description="The highest of them.")
    host_peak_bytes: HostPeak
    host_idle_bytes: int | None = Field(
        description="The least that it held when a step began, bytes: interpreter, weights; null as for the peak."
    )
    host_above_idle_bytes: int | None = Field(
        description="The highest peak above what was held when the same step began, bytes: what the phase needs. "
        "Without an attempt's first step, which also pays for what libraries set up once; null as for the peak."
    )
    device_peak_bytes: DevicePeak
    device_idle_bytes: int | None = Field(
        description="The least that the accelerator's allocator held when a step began, bytes; null without one."
    )
    device_above_idle_bytes: int | None = Field(
        description="As `host_above_idle_bytes`, of the accelerator's allocator; null without one."
    )


class MemorySummary(Answer):
    """Memory by rank and phase."""

    job_id: str = Field(description="Id of the job.")
    gradient: str | None = Field(description="Of a training; null of a job that scores rows.")
    ranks: int = Field(description="Workers that were measured.")
    phases: list[MemoryPhase] = Field(description="By rank, and then in the order of a step.")
    thinned: Thinned = False


class MemoryPointRead(Answer):
    """Memory of one rank in one phase of one step."""

    seq: int = Field(description="Number of the record among the job's, in the order in which they were stored.")
    step: int = Field(description="Steps completed with this one; of a validation, the step that it follows.")
    rank: Rank
    phase: PhaseOfStep
    time: datetime = Field(description="When the run measured it.")
    host_idle_bytes: int | None = Field(
        description="What the process held when the step began, bytes; null as for the peak."
    )
    host_peak_bytes: HostPeak
    device_idle_bytes: int | None = Field(
        description="What the allocator held when the step began, bytes; null without one."
    )
    device_peak_bytes: DevicePeak


class MemoryPoints(Answer):
    """Memory records in the order in which they were stored."""

    items: list[MemoryPointRead] = Field(description="Those asked for, `limit` at most.")
    next_after_seq: NextAfterSeq
    thinned: Thinned = False


class LogLineRead(Answer):
    """A line that a process of a run printed, or one that stands for those that were left out there."""

    seq: int = Field(description="Number of the line among the job's.")
    attempt: int = Field(description="Number of the attempt whose process printed it.")
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

    items: list[LogLineRead] = Field(description="The lines asked for, the first one first.")
    next_after: int = Field(description="Pass as `after` for what comes later.")
    complete: bool = Field(description="The job has ended and nothing comes after this answer.")


class ArtifactRead(Answer):
    """A finished file of a job."""

    name: str = Field(description="Of the file.")
    media_type: str = Field(description="What the file is, as `Content-Type` has it.")
    bytes: int = Field(description="Its size.")
    sha256: str = Field(description="Of its content, 64 hexadecimal digits.")
    attempt: int = Field(description="Number of the attempt that made it.")
    created_at: datetime = Field(description="When it was stored.")
    url: str = Field(description="Where to download it.")
    path: str = Field(description="Where it lies on the storage of the service.")


class ArtifactList(Answer):
    """Files of a job by name."""

    items: list[ArtifactRead] = Field(description="In the order of their names.")
