"""Answers about sweeps and their trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field

from symadj.api.schemas.answer import Answer, HasMore, NextAfter, OwnerName
from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.finding import Finding
from symadj.service.contract.result import Number
from symadj.service.contract.spec.any_job import JobName, LabelName, LabelValue
from symadj.service.contract.spec.search import Objective
from symadj.service.contract.spec.section import Section
from symadj.service.contract.states import JobState, SweepState, TrialState

if TYPE_CHECKING:  # the client reads these answers and needs no database for it
    from symadj.service.store.tables import Sweep, SweepTrial

__all__ = [
    "SweepChange",
    "SweepCheck",
    "SweepList",
    "SweepRead",
    "SweepSubmitted",
    "SweepSummary",
    "TrialList",
    "TrialRead",
]


class TrialRead(Answer):
    """A trial of a sweep."""

    number: int = Field(description="Counted from 0.")
    state: TrialState = Field(description="What came of it; `open` until its job has ended.")
    parameters: dict[str, Any] = Field(description="The values of the sweep's parameters, by path.")
    value: Number | None = Field(description="The objective's, of a trial that succeeded; else null.")
    message: str | None = Field(description="Why it failed, was pruned or cancelled; else null.")
    job: str | None = Field(description="null: its values do not fit together, or its job was deleted.")
    job_state: JobState | None = Field(description="State of its job; null without one.")
    created_at: datetime = Field(description="When it was begun.")
    finished_at: datetime | None = Field(description="When its job ended, or could not be made; null while it is open.")

    @classmethod
    def of(cls, trial: SweepTrial, job_state: JobState | None) -> TrialRead:
        """Return the answer for a stored trial, and the state of its job."""
        names = cls.model_fields.keys() & type(trial).__table__.columns.keys()
        values = {name: getattr(trial, name) for name in names}
        return cls(**values, job=trial.job_id, job_state=job_state)


class TrialList(Answer):
    """All trials of a sweep so far."""

    items: list[TrialRead] = Field(description="In the order of their numbers.")


class SweepSummary(Answer):
    """A sweep in a list."""

    id: str = Field(description="Id of the sweep, `swp-...`.")
    name: str = Field(description="As the spec says, unless it was changed; several sweeps may have one name.")
    owner: OwnerName
    labels: dict[str, str] = Field(description="Its labels by name; its jobs have their own.")
    state: SweepState = Field(
        description="`running` until no trial is open and none is to be begun, or it is cancelled."
    )
    message: str | None = Field(
        description="What its next trial waits for, or why it failed or was cancelled; else null."
    )
    created_at: datetime = Field(description="When the sweep was submitted.")
    updated_at: datetime = Field(description="When something of it or of its trials changed last.")
    finished_at: datetime | None = Field(description="When it succeeded, failed or was cancelled; null before.")
    objective: Objective = Field(description="By what its trials are compared.")
    wanted: int = Field(description="Trials in all.")
    counts: dict[TrialState, int] = Field(description="Trials so far, by their states, zeros included.")
    best: TrialRead | None = Field(description="Of those that succeeded; null: none has.")

    @classmethod
    def of(cls, sweep: Sweep, trials: Sequence[TrialRead]) -> SweepSummary:
        """Return the answer for a stored sweep and its trials."""
        return SweepSummary(**_summary(sweep, trials))


class SweepRead(SweepSummary):
    """A sweep, whole."""

    spec: dict[str, Any] = Field(
        description="As submitted, with every default written out; its shape is that of SweepSpec when it was "
        "submitted, and `trials` is a number in any case."
    )
    trials: list[TrialRead] = Field(description="All so far, in the order of their numbers.")

    @classmethod
    def of(cls, sweep: Sweep, trials: Sequence[TrialRead]) -> SweepRead:
        """Return the answer for a stored sweep and its trials."""
        return SweepRead(**_summary(sweep, trials), spec=sweep.spec, trials=list(trials))


def _summary(sweep: Sweep, trials: Sequence[TrialRead]) -> dict[str, Any]:
    names = SweepSummary.model_fields.keys() & type(sweep).__table__.columns.keys()
    spec = sweep.spec
    objective = Objective.model_validate(spec["objective"])
    sign = 1.0 if objective.direction == "minimize" else -1.0
    done = [trial for trial in trials if trial.state is TrialState.SUCCEEDED]
    found = Counter(trial.state for trial in trials)
    return {name: getattr(sweep, name) for name in names} | {
        "labels": spec["labels"],
        "objective": objective,
        "wanted": spec["trials"],
        "counts": {state: found[state] for state in TrialState},
        "best": min(done, key=lambda trial: sign * (trial.value or 0.0), default=None),
    }


class SweepSubmitted(SweepRead):
    """A sweep that was accepted, and what was found of its specs."""

    findings: list[Finding] = Field(
        default_factory=list,
        description="What is wrong or doubtful as things stand with the first values of the parameters, or the last.",
    )


class SweepCheck(Answer):
    """What was found of a sweep; nothing was submitted."""

    spec: dict[str, Any] = Field(description="As it would be stored, with every default written out.")
    findings: list[Finding] = Field(
        description="Of the jobs with the first values of the parameters, and the last; empty: nothing speaks against "
        "them."
    )
    data: list[DataSummary] = Field(
        default_factory=list,
        description="What was read of the data of these two jobs: one summary where both read the same, none where "
        "nothing could be read.",
    )


class SweepChange(Section):
    """A JSON merge patch (RFC 7396) of what may be changed of a sweep at any time."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "rates-2", "labels": {"team": "x"}}]})

    name: JobName | None = Field(None, description="null: that of a spec without a name.")
    labels: dict[LabelName, LabelValue | None] | None = Field(
        None, description="Only the labels that are named change; null removes a label, or all of them.", max_length=64
    )


class SweepList(Answer):
    """A page of sweeps, newest first."""

    items: list[SweepSummary] = Field(description="The sweeps of this page.")
    has_more: HasMore
    next_after: NextAfter
