"""What workers send to the API: records in numbered batches.

Pydantic only: the API, the store and the workers import it. Every record of one source (``rank-0``, ``rank-1``,
``driver``) of one attempt has a sequence number, 1, 2, 3 ...; the API keeps the last number that it has stored, so
a batch may be sent again after a lost answer without doubling anything, and a hole is noticed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticSerializationError

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.layout import CheckpointName
from symadj.service.contract.plan import Plan
from symadj.service.contract.result import JobResult, Number
from symadj.service.contract.states import CheckpointCause, JobState, ReasonCode, StopReason
from symadj.service.contract.storable import Details, LogText, Message, storable_details

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_RECORDS",
    "MAX_BODY_BYTES",
    "MAX_BODY_VALUES",
    "MAX_LOG_LINES",
    "MAX_METRICS",
    "PRETRAINING_SHORTENED",
    "PROBLEM_MEDIA_TYPE",
    "AnyRecord",
    "ArtifactRecord",
    "BatchAnswer",
    "CheckpointRecord",
    "ClosedRecord",
    "DataRecord",
    "EndState",
    "EventRecord",
    "LogRecord",
    "MemoryRecord",
    "OutcomeRecord",
    "Phase",
    "PlanRecord",
    "Record",
    "RecordBatch",
    "ResumedRecord",
    "StepPhase",
    "StepRecord",
    "Stream",
]

# The event of a run whose rows allow fewer steps than its spec asks for; its data has them as ``max_steps``.
PRETRAINING_SHORTENED = "pretraining_shortened"

# Of the API's errors (RFC 9457); an error without it is another's: of a proxy with no API behind it now.
PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_BATCH_RECORDS = 1000
# What a source sends in one batch, unless a single record is longer.
MAX_BATCH_BYTES = 1_000_000
# What the API takes of one batch: a single record (of the data, of the outcome) may be long.
MAX_BODY_BYTES = 16 * 2**20
MAX_BODY_VALUES = 1_000_000
# Of one job. A run has some dozens.
MAX_METRICS = 1000
# Of one record.
MAX_LOG_LINES = 1000

CheckpointField = Annotated[str, Field(pattern=CheckpointName.PATTERN)]
MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.]{0,99}$")]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]


def _written_out(time: Any) -> Any:
    """Refuse numbers, and text of digits, which pydantic takes for seconds since 1970."""
    if not isinstance(time, datetime) and ":" not in str(time):
        raise ValueError(f"{str(time)[:50]!r} is no time: write it out, as 2026-01-31T12:00:00Z")
    return time


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("not a time that UTC has") from None


def _checked_result(result: JobResult) -> JobResult:
    try:
        result.stored()
    except PydanticSerializationError as error:
        raise ValueError(f"can't be written as JSON: {error}") from None
    return result


Time = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
# A result keeps the fields of other versions, which may hold anything.
Result = Annotated[JobResult, BeforeValidator(storable_details), AfterValidator(_checked_result)]
EndState = Literal[JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED]
StepPhase = Literal["forward", "backward", "optimizer"]
# The others follow a step, and hold the same whatever gradient it was trained by.
Phase = Literal[StepPhase, "validation", "evaluation"]
# `output` is both in one: a driver's.
Stream = Literal["stdout", "stderr", "output"]


def _require_kind(schema: dict[str, Any]) -> None:
    """Say that who sends a record names its kind, which has a default for who makes one here."""
    del schema["properties"]["kind"]["default"]
    schema["required"] = ["kind", *schema.get("required", ())]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings", json_schema_extra=_require_kind)

    time: Time = Field(default_factory=lambda: datetime.now(UTC))


class StepRecord(_Record):
    """Scalars of one optimiser step, the same on all ranks and sent by rank 0."""

    kind: Literal["step"] = "step"
    step: int = Field(ge=0, lt=2**63, description="Steps completed, counted from 1; 0 is before training.")
    metrics: dict[MetricName, Number] = Field(max_length=100)


class MemoryRecord(_Record):
    """Memory of one rank in one phase of one step, in bytes.

    A validation or the evaluation has the step that it follows. ``idle`` is what the process held when the step, or
    that phase, began, ``peak`` the most that it held within the phase: the
    kernel's high-water mark of resident memory for the host, the allocator's for the device. ``null`` where the
    platform gives no such figure.
    """

    kind: Literal["memory"] = "memory"
    step: int = Field(ge=1, lt=2**63)
    rank: int = Field(ge=0, lt=2**31)
    phase: Phase
    host_idle_bytes: Bytes | None
    host_peak_bytes: Bytes | None
    device_idle_bytes: Bytes | None
    device_peak_bytes: Bytes | None


class EventRecord(_Record):
    """Something that happened in the run and that a person may want to know."""

    kind: Literal["event"] = "event"
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    message: Message
    data: Details = Field(default_factory=dict)


class LogRecord(_Record):
    """Lines that the source, a process, wrote to one of its streams; ``time`` is when they were read from there."""

    kind: Literal["log"] = "log"
    stream: Stream
    lines: list[LogText] = Field(max_length=MAX_LOG_LINES)
    left_out_bytes: Bytes = Field(0, description="Of the stream, right before these lines: it wrote too much.")
    end: Bytes = Field(description="Bytes of the stream up to the end of these lines, from when the process began.")


class DataRecord(_Record):
    """What the run has read; sent by the driver before the data are checked and any worker is placed."""

    kind: Literal["data"] = "data"
    summary: DataSummary


class PlanRecord(_Record):
    """What the run will take in memory; sent by rank 0 before its first step."""

    kind: Literal["plan"] = "plan"
    plan: Plan


class ArtifactRecord(_Record):
    """A finished file in the job's folder of the artifact storage."""

    kind: Literal["artifact"] = "artifact"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
    media_type: Annotated[str, Field(max_length=100, pattern=r"^[\x21-\x7e]+(; ?[\x21-\x7e]+)*$")]
    bytes: Bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointRecord(_Record):
    """A complete checkpoint in the job's folder, and which ones were removed to make room for it."""

    kind: Literal["checkpoint"] = "checkpoint"
    name: CheckpointField
    step: int = Field(ge=0, lt=2**63, description="Steps completed.")
    bytes: Bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Of its manifest, which has its files'.")]
    cause: CheckpointCause
    validation_nll: Number | None = Field(description="The newest, of these or earlier weights.")
    removed: list[CheckpointField] = Field(default_factory=list, max_length=1000)


class ResumedRecord(_Record):
    """The attempt goes on from a checkpoint; sent by rank 0."""

    kind: Literal["resumed"] = "resumed"
    step: int = Field(ge=0, lt=2**63, description="Steps that the checkpoint has completed.")
    checkpoint: CheckpointField


class ClosedRecord(_Record):
    """The last record of a source: silence from now on means nothing."""

    # "farewell" is what runs send that began under the first versions.
    kind: Literal["closed", "farewell"] = "closed"


class OutcomeRecord(_Record):
    """How the attempt ended; the driver's last record before it closes."""

    kind: Literal["outcome"] = "outcome"
    state: EndState
    reason: ReasonCode | None = None
    message: Message = ""
    data: Details = Field(default_factory=dict, description="Where it happened, and advice.")
    result: Result | None = None


AnyRecord = (
    StepRecord
    | MemoryRecord
    | EventRecord
    | LogRecord
    | DataRecord
    | PlanRecord
    | ArtifactRecord
    | CheckpointRecord
    | ResumedRecord
    | OutcomeRecord
    | ClosedRecord
)
Record = Annotated[AnyRecord, Field(discriminator="kind")]


class RecordBatch(BaseModel):
    """Records ``first_seq``, ``first_seq + 1`` ... of one source of one attempt. Without records: a sign of life."""

    model_config = ConfigDict(
        extra="forbid",
        ser_json_inf_nan="strings",
        json_schema_extra={
            "examples": [
                {
                    "source": "rank-0",
                    "first_seq": 1,
                    "records": [
                        {"kind": "step", "time": "2026-01-01T00:00:00Z", "step": 1, "metrics": {"loss": 2.5}},
                    ],
                },
                {"source": "driver", "first_seq": 1, "records": []},
            ]
        },
    )

    source: Annotated[str, Field(pattern=r"^(driver|rank-\d{1,6})$")]
    first_seq: int = Field(ge=1, lt=2**63)
    # One of the wrong ones is enough for their maker.
    records: list[Record] = Field(max_length=MAX_BATCH_RECORDS, fail_fast=True)


class BatchAnswer(BaseModel):
    """The API's answer to a batch."""

    next_seq: int = Field(description="The number of the next record that the API expects.")
    stop: StopReason | None = Field(description="The job must stop at its next step, for this reason; else null.")
    checkpoints_asked: int = Field(description="How many checkpoints were requested so far: one more is a new request.")
