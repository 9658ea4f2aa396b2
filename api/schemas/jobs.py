"""Answers about jobs, their attempts, checkpoints and events."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from pydantic import ByteSize, ConfigDict, Field, RootModel

from symadj.api.schemas.answer import Answer, HasMore, NextAfter, NextAfterSeq, OwnerName
from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.finding import Finding
from symadj.service.contract.plan import Plan
from symadj.service.contract.result import JobResult, Number
from symadj.service.contract.spec import changes_of_stored
from symadj.service.contract.spec.any_job import JobName, LabelName, LabelValue
from symadj.service.contract.spec.section import Section
from symadj.service.contract.states import CheckpointCause, JobState, ReasonCode, StopReason

if TYPE_CHECKING:  # the client reads these answers and needs no database for it
    from symadj.service.lifecycle.figures import JobFigures
    from symadj.service.store.plans import Comparison
    from symadj.service.store.tables import Job, PlanRow

__all__ = [
    "AttemptList",
    "AttemptRead",
    "CheckpointList",
    "CheckpointRead",
    "DataRead",
    "EventList",
    "EventRead",
    "Failure",
    "JobChange",
    "JobEnd",
    "JobList",
    "JobPage",
    "JobRead",
    "JobSubmitted",
    "JobSummary",
    "ParentRead",
    "PlanRead",
    "PlannedGradient",
    "Progress",
    "SpecCheck",
    "SpecPatch",
    "Waiting",
]


class Failure(Answer):
    """Why a job failed."""

    code: ReasonCode = Field(description="Why, in a word for programs.")
    message: str = Field(description="What went wrong, in words.")
    data: dict[str, Any] = Field(description="Where it happened, and advice.")


class Progress(Answer):
    """How far a job is, by the newest records."""

    step: int = Field(description="Optimiser steps completed; of a job that scores rows, pieces of each worker.")
    max_steps: int | None = Field(
        description="Fewer than the spec's once the run has said that its rows allow no more "
        "(`pretraining.max_epochs`); null where something else than steps ends the job."
    )
    latest: dict[str, Number] = Field(description="Every metric's newest value.")
    host_peak_bytes: int | None = Field(
        description="Highest resident memory of any rank so far, bytes; null: not measured yet."
    )
    device_peak_bytes: int | None = Field(
        description="Highest memory of any rank on its accelerator so far, bytes; null without one."
    )
    eta_seconds: float | None = Field(
        None,
        description="Seconds until its last step, at the pace of its newest steps and the pauses between them; null "
        "where it does not run, or its steps are too few.",
    )


class Waiting(Answer):
    """The place of a job that waits, and what it waits for."""

    place: int = Field(description="In the queue, by priority, then first come; 1 is the next.")
    reason: str = Field(description="What it waits for, in a sentence.")


class ParentRead(Answer):
    """The checkpoint of another job that a job began with."""

    job: str = Field(description="Id of that job, which may be deleted by now.")
    checkpoint: str = Field(description="Name of the checkpoint, as that job had it.")


class JobSummary(Answer):
    """A job in a list."""

    id: str = Field(description="Id of the job, `job-...`.")
    name: str = Field(description="As the spec says, unless it was changed; several jobs may have one name.")
    owner: OwnerName
    state: JobState = Field(description="Where the job is in its life.")
    priority: int = Field(description="As the spec says: of the jobs in the queue, the highest is the first.")
    attempt: int = Field(description="Tries so far, counted from 1; 0 before the first.")
    attempts_lost: int = Field(description="Of these, how many ended because workers or the cluster were lost.")
    created_at: datetime = Field(description="When the job was submitted.")
    started_at: datetime | None = Field(description="When a worker of it reported first; null: none has.")
    finished_at: datetime | None = Field(description="When it succeeded, failed or was cancelled; null before.")
    not_before: datetime | None = Field(
        description="Of a job that waits after an attempt that was lost or did not start: when the next may; else null."
    )
    stop_requested: StopReason | None = Field(description="It must stop at its next step, for this reason; else null.")
    stop_requested_at: datetime | None = Field(description="Since when; null: it need not stop.")
    alerts: list[str] = Field(
        default_factory=list,
        description="Rules of the spec's section `alerts` that hold now, or held at the job's end: diverged, plateau, "
        "nfe, over_budget, stalled.",
    )
    cancelled_by: str | None = Field(
        None, description="Who asked for the end of a job that is cancelled, or will be at its next step; else null."
    )
    parent: ParentRead | None = Field(description="null: the job began from random weights.")
    reason: ReasonCode | None = Field(description="Why it failed, or that its sweep pruned it; else null.")
    labels: dict[str, str] = Field(description="Its labels by name.")
    progress: Progress = Field(description="How far it is.")
    memory_budget: ByteSize | None = Field(
        description="resources.memory_budget of its spec: bytes of each worker; null: it has none."
    )
    planned_bytes: int | None = Field(
        description="Bytes that a worker holds at its peak by its run's plan, for the steps that its solves take now; "
        "null before it has a plan and has taken a step."
    )
    waiting: Waiting | None = Field(None, description="Of a queued job; else null.")
    telemetry: Literal["whole", "thinned", "removed"] = Field(
        "whole", description="What the server's retention has left of every step's metrics and memory."
    )

    @classmethod
    def of(cls, figures: JobFigures, **more: Any) -> Self:
        """Return the answer for a stored job and its newest figures; ``more`` are fields of which they say nothing."""
        return cls.model_validate(cls._values(figures) | more)

    @classmethod
    def _values(cls, figures: JobFigures) -> dict[str, Any]:
        job, series = figures.job, figures.series
        values = {name: getattr(job, name) for name in _names_of_columns(type(job))}
        # As stored, whatever version stored it: this one's rules are for new specs.
        spec = job.spec
        steps = max((item.last_step for item in series), default=0)
        progress = Progress(
            step=steps,
            max_steps=figures.max_steps,
            latest={item.name: item.last_value for item in series},
            host_peak_bytes=job.host_peak_bytes,
            device_peak_bytes=job.device_peak_bytes,
            eta_seconds=figures.eta_seconds,
        )
        waiting = figures.waiting
        return values | {
            "telemetry": _TELEMETRY.get(job.telemetry, job.telemetry),
            "parent": job.parent_id and {"job": job.parent_id, "checkpoint": job.parent_checkpoint},
            "labels": spec["labels"],
            "progress": progress,
            "memory_budget": spec["resources"].get("memory_budget"),
            "planned_bytes": None if figures.planned is None else figures.planned.planned_bytes,
            "alerts": list(figures.alerts),
            "cancelled_by": figures.cancelled_by,
            "waiting": waiting and Waiting(place=waiting.place, reason=waiting.reason),
        }


# Of a row whose turn it was not yet, or is just now.
_TELEMETRY: dict[str | None, str] = {None: "whole", "thinning": "thinned"}


@cache
def _names_of_columns(table: type[Job]) -> frozenset[str]:
    """Return the fields of a :class:`JobSummary` that are columns of its row."""
    return frozenset(JobSummary.model_fields.keys() & table.__table__.columns.keys())


class PlannedGradient(Answer):
    """What a worker would hold with one of the gradients, for the steps that the job's solves take now."""

    gradient: dict[str, Any] = Field(description="As the section `gradient` of a spec.")
    chosen: bool = Field(description="Whether it is the job's own.")
    exact: bool = Field(description="Whether it is the derivative of the computed solution, up to rounding.")
    planned_bytes: int = Field(description="Bytes at the worker's peak.")


class PlanRead(Answer):
    """What a job was said to take, beside what was measured."""

    attempt: int = Field(description="That planned it; 0: the service did, when the job was submitted.")
    planned_at: datetime = Field(description="When it was planned.")
    plan: Plan = Field(description="The plan, for any number of solver steps.")
    steps: float | None = Field(
        description="Accepted steps of a block's solve in the newest step, on the average; null before."
    )
    planned_bytes: int | None = Field(
        description="Bytes that a worker holds at its peak by the plan, for so many steps; null where they are unknown."
    )
    limited_by: str | None = Field(
        None, description="In what of the run that is: a part of a step, or another phase; null where they are unknown."
    )
    measured_bytes: int | None = Field(
        description="Highest peak of any worker so far, bytes: of the device with GPUs; null: not measured yet."
    )
    error: Number | None = Field(description="planned_bytes / measured_bytes - 1; null where one of them is.")
    gradients: list[PlannedGradient] = Field(
        description="For so many steps, of the job's own gradient and every other that the plan has; empty where the "
        "steps are unknown."
    )

    @classmethod
    def of(cls, row: PlanRow, found: Comparison) -> PlanRead:
        """Return the answer for a stored plan and what it was compared with."""
        plan = Plan.model_validate(row.plan)
        gradients = [
            PlannedGradient(
                gradient=item.gradient,
                chosen=item.chosen,
                exact=item.exact,
                planned_bytes=plan.worker_bytes(item, found.steps),
            )
            for item in plan.gradients
            if found.steps is not None
        ]
        return cls(
            attempt=row.attempt,
            planned_at=row.planned_at,
            plan=plan,
            gradients=gradients,
            steps=found.steps,
            planned_bytes=found.planned_bytes,
            limited_by=None if found.steps is None else plan.limit(plan.chosen, found.steps).words,
            measured_bytes=found.measured_bytes,
            error=found.error,
        )


class JobRead(JobSummary):
    """A job, whole."""

    spec: dict[str, Any] = Field(
        description="As submitted, with every default written out; its shape is that of JobSpec when it was submitted. "
        "A job that scores rows has `kind: scores`; a training has no `kind`."
    )
    spec_changes: dict[str, Any] | None = Field(
        description="Those fields of `spec` that differ from their defaults; null where this version can't read it."
    )
    plan: PlanRead | None = Field(None, description="null: nobody has planned it yet, or its version did not.")
    failure: Failure | None = Field(description="Why it failed; null: it did not.")
    result: JobResult | None = Field(description="Of a job that succeeded; else null.")

    @classmethod
    def _values(cls, figures: JobFigures) -> dict[str, Any]:
        job = figures.job
        failure = None
        if job.reason is not None and job.state == JobState.FAILED:
            failure = Failure(code=ReasonCode(job.reason), message=job.message or "", data=job.reason_data or {})
        plan = None
        if figures.plan is not None and figures.planned is not None:
            plan = PlanRead.of(figures.plan, figures.planned)
        result = None
        if job.result is not None:
            peaks = {"host_peak_bytes": job.host_peak_bytes, "device_peak_bytes": job.device_peak_bytes}
            result = JobResult.model_validate(job.result | peaks)
        changes = changes_of_stored(job.spec)
        whole = {"spec": job.spec, "spec_changes": changes, "plan": plan, "failure": failure, "result": result}
        return super()._values(figures) | whole


class JobSubmitted(JobRead):
    """A job that was accepted, and what was found of its spec."""

    findings: list[Finding] = Field(
        default_factory=list,
        description="What is wrong or doubtful as things stand: the job waits all the same, and it may be mended "
        "before its turn comes.",
    )


class SpecCheck(Answer):
    """What was found of a spec; nothing was submitted."""

    spec: dict[str, Any] = Field(description="As it would be stored, with every default written out.")
    findings: list[Finding] = Field(description="Empty: nothing speaks against it.")
    data: DataSummary | None = Field(None, description="What was read of its data; null where nothing could be.")

    @property
    def failed(self) -> bool:
        """Whether the job would fail if it started now."""
        return any(item.severity == "error" for item in self.findings)


class JobChange(Section):
    """A JSON merge patch (RFC 7396) of what may be changed of a job at any time."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "cytometry-2", "labels": {"team": "x", "old": None}}]}
    )

    name: JobName | None = Field(None, description="null: that of a spec without a name.")
    labels: dict[LabelName, LabelValue | None] | None = Field(
        None, description="Only the labels that are named change; null removes a label, or all of them.", max_length=64
    )


class SpecPatch(RootModel[dict[str, Any]]):
    """A JSON merge patch (RFC 7396) of a job's stored spec: null removes a field, which then has its default."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "again", "optimizer": {"learning_rate": 1e-4}, "early_stop": None}]}
    )


Item = TypeVar("Item", bound=JobSummary)


class JobPage(Answer, Generic[Item]):
    """A page of jobs, whatever they are to their reader."""

    items: list[Item] = Field(description="The jobs of this page.")
    has_more: HasMore
    next_after: NextAfter


class JobList(JobPage[JobSummary]):
    """A page of jobs, newest first."""


class AttemptRead(Answer):
    """One try at a job: one Ray job."""

    number: int = Field(description="Counted from 1.")
    submission_id: str = Field(description="Of the Ray job.")
    workers: int = Field(
        description="Data-parallel ranks; with resources.min_workers fewer than resources.workers, perhaps."
    )
    created_at: datetime = Field(description="When the job was taken from the queue for it.")
    submitted_at: datetime | None = Field(description="When Ray took it; null: it has not.")
    finished_at: datetime | None = Field(description="When it ended; null while it goes on.")
    outcome: str | None = Field(
        description="The state in which it ended; `lost`, `stopped` (the service or a node was) or `not_started`; null "
        "while it goes on."
    )
    reason: ReasonCode | None = Field(
        description="Why it failed, was lost, stopped or pruned, or did not start; else null."
    )
    message: str | None = Field(description="How it ended, in words; null where there is nothing to say.")
    resumed_from_step: int | None = Field(description="null: it began from the start, or has not begun yet.")


class AttemptList(Answer):
    """All attempts of a job in order."""

    items: list[AttemptRead] = Field(description="The first one first.")


class CheckpointRead(Answer):
    """A stored state of a job's training, from which it or another job can continue."""

    name: str = Field(description="Of its folder, `step-000000400-attempt-2`.")
    step: int = Field(description="Steps completed.")
    attempt: int = Field(description="That wrote it; 0: another job did, from which this one began.")
    created_at: datetime = Field(description="When a run reported it, that wrote it or went on from it.")
    bytes: int = Field(description="Of all its files.")
    sha256: str = Field(description="Of its manifest, which has those of its files.")
    cause: CheckpointCause = Field(description="Why it was written.")
    validation_nll: Number | None = Field(
        description="The newest when it was written, nats a row; null: there was none, or it was not finite."
    )
    path: str = Field(description="Its folder on the storage of the service.")


class CheckpointList(Answer):
    """The checkpoints of a job that are kept, by step."""

    items: list[CheckpointRead] = Field(description="The newest of a step last.")


class DataRead(Answer):
    """What a job's newest attempt that has read the data says of them, in their own units."""

    attempt: int | None = Field(description="Which attempt; null where there is no summary.")
    read_at: datetime | None = Field(description="When they were read; null where there is no summary.")
    summary: DataSummary | None = Field(description="What was read; null where `missing` says why there is none.")
    missing: str | None = Field(description="Why there is no summary; null where there is one.")


class EventRead(Answer):
    """Something that happened to a job."""

    seq: int = Field(description="Number of the event among the job's, from 1 on.")
    time: datetime = Field(description="When it happened.")
    attempt: int = Field(description="Number of the attempt then, from 1 on; 0 before the first.")
    actor: str = Field(description="Who caused it: an owner, the dispatcher, the driver, a rank.")
    name: str = Field(
        description="What happened, in a word: a new state of the job, `attempt_lost`, `checkpoint_requested` ..."
    )
    message: str = Field(description="What happened, in a sentence.")
    data: dict[str, Any] = Field(description="Figures and ids that belong to it, by names of its own.")


class JobEnd(Answer):
    """The last of a job's stream."""

    state: JobState = Field(description="In which the job ended.")


class EventList(Answer):
    """Events in order."""

    items: list[EventRead] = Field(description="The first one first.")
    next_after_seq: NextAfterSeq
