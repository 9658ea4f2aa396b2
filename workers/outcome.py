"""Why a run ended before its time, with the message that the user gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from symadj.service.contract.records import EndState, OutcomeRecord
from symadj.service.contract.states import JobState, ReasonCode, StopReason

__all__ = ["DIVERGENCES", "LESS_MEMORY", "Failure", "StopRequestedError"]

LESS_MEMORY = (
    "what needs less, the strongest first: gradient.kind symplectic (keep.kind steps needs less than stages, binomial "
    "least), resources.microbatch_size auto (the same batch, fewer rows at once), a smaller data.batch_size, more "
    "workers for the same batch, a narrower flow, looser solver tolerances"
)

# These leave the weights as they were, and finite: they are found before the optimiser's turn.
DIVERGENCES = frozenset({ReasonCode.DIVERGED, ReasonCode.SOLVER_STUCK})

_STATES: dict[StopReason | None, EndState] = {
    None: JobState.FAILED,
    StopReason.CANCEL: JobState.CANCELLED,
    StopReason.PRUNED: JobState.CANCELLED,
    StopReason.PAUSE: JobState.PAUSED,
    StopReason.TIMEOUT: JobState.FAILED,
    StopReason.SERVICE_STOPPED: JobState.PAUSED,
    StopReason.NODE_DRAINED: JobState.PAUSED,
}
# Phases in which a run waits for a storage that does not answer.
_BEFORE = frozenset({"storage", "setup", "resume"})
_TIMEOUT_ADVICE = (
    "submit a job that goes on from the last checkpoint (`symadj continue`), with a longer timeout_minutes or none"
)


class StopRequestedError(Exception):
    """The API asked for the run to stop.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: StopReason) -> None:
        super().__init__(f"the run was asked to stop: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Failure:
    """A reason code, a message for a person, and what was measured where it happened, with advice.

    Attributes:
        stop: what the API asked for, where that is why the run ended: no failure, then.
    """

    reason: ReasonCode | None
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    stop: StopReason | None = None

    @classmethod
    def stopped(cls, reason: StopReason, where: dict[str, Any]) -> Failure:
        """Return the end of a run that stopped as it was asked to, at a step, before the first or in the evaluation."""
        place = "before the training" if where.get("phase") in _BEFORE else "in the evaluation, after the training"
        if "step" in where:
            place = f"after step {where['step']}"
        if reason is StopReason.TIMEOUT:
            message = f"the time that timeout_minutes gives the job was over {place}"
            return cls(ReasonCode.TIMEOUT, message, where | {"advice": _TIMEOUT_ADVICE}, reason)
        if reason is StopReason.NODE_DRAINED:
            message = f"a node of the run is being taken away (Ray drains it): stopped {place}"
            return cls(ReasonCode.NODE_DRAINED, message, where, reason)
        return cls(None, f"{_STATES[reason]} {place}", where, reason)

    def outcome(self) -> OutcomeRecord:
        """Return the record of an attempt that ended so."""
        return OutcomeRecord(state=_STATES[self.stop], reason=self.reason, message=self.message, data=self.data)
