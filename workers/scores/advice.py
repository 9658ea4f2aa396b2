"""What to do about a job that scores rows and failed, where the usual advice is about a training."""

from __future__ import annotations

from symadj.service.contract.records import OutcomeRecord
from symadj.service.contract.states import ReasonCode

__all__ = ["with_advice"]

_ADVICE = {
    ReasonCode.DIVERGED: "a row from first_row to before end_row is far from the data that the flow was trained on: "
    "leave it out, or score with settings trained",
    ReasonCode.SOLVER_STUCK: "a row from first_row to before end_row takes more steps than the solver may: leave it "
    "out, or score with settings trained",
    ReasonCode.OUT_OF_MEMORY: "take more memory for a worker (resources.memory_budget), or fewer workers on a node",
    ReasonCode.TIMEOUT: "score the rows again with a longer timeout_minutes or none, or with more workers",
}


def with_advice(outcome: OutcomeRecord) -> OutcomeRecord:
    """Return the outcome of an attempt to score rows with advice for it."""
    advice = None if outcome.reason is None else _ADVICE.get(outcome.reason)
    if advice is None:
        return outcome
    return outcome.model_copy(update={"data": outcome.data | {"advice": advice}})
