"""The reason for which a run ended before its time, in the words that the user gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.states import JobState, ReasonCode

__all__ = ["CancelledByUser", "Failure"]


class CancelledByUser(Exception):
    """The API asked for the job to stop."""


@dataclass(frozen=True)
class Failure:
    """A reason code, a message for a person, and what was measured where it happened, with advice.

    Without a reason it is no failure: the user cancelled the job.
    """

    reason: ReasonCode | None
    message: str
    data: dict[str, Any] = field(default_factory=dict)

    def outcome(self) -> dict[str, Any]:
        """Return the fields of the ``OutcomeRecord`` of an attempt that ended so."""
        return {
            "state": JobState.CANCELLED if self.reason is None else JobState.FAILED,
            "reason": self.reason,
            "message": self.message,
            "data": self.data,
        }
