"""The reason for which a run ended before its time, in the words that the user gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.states import JobState, ReasonCode

__all__ = ["Failure"]


@dataclass(frozen=True)
class Failure:
    """A reason code, a message for a person, and what was measured where it happened, with advice."""

    reason: ReasonCode
    message: str
    data: dict[str, Any] = field(default_factory=dict)

    def outcome(self) -> dict[str, Any]:
        """Return the fields of the ``OutcomeRecord`` of an attempt that ended so."""
        return {
            "state": JobState.FAILED,
            "reason": self.reason,
            "message": self.message,
            "data": self.data,
        }
