"""Where the parts of a run put their records."""

from __future__ import annotations

from typing import Protocol

from symadj.service.contract.records import AnyRecord
from symadj.service.contract.states import StopReason

__all__ = ["Outbox", "TelemetryError"]


class TelemetryError(Exception):
    """The API refuses what this run sends: a fault in symadj, not in the run."""


class Outbox(Protocol):
    """Where a run puts its records, and where it learns that it must stop."""

    @property
    def stop(self) -> StopReason | None:
        """Why the run must stop at its next step, if it must."""

    @property
    def checkpoints_asked(self) -> int:
        """How many checkpoints were requested in all."""

    @property
    def superseded(self) -> bool:
        """Whether another attempt has taken this one's place, or its job was deleted."""

    def put(self, record: AnyRecord) -> None:
        """Take a record for delivery; returns at once.

        Raises:
            TelemetryError: the API refused an earlier record for good.
        """

    def raise_if_stopped(self) -> None:
        """Return if the run may go on.

        Raises:
            StopRequestedError: the API asked for the run to stop.
        """

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until all is delivered, and return whether it is.

        Raises:
            TelemetryError: the API refused a record for good.
        """
