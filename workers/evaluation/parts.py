"""The parts of a report, of which one may fail without the others: the weights are stored by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from symadj.service.contract.result import ReportFailure
from symadj.workers.distributed.diagnosis import diagnose_rank
from symadj.workers.distributed.ranks import AttemptFailedError
from symadj.workers.outcome import Failure
from symadj.workers.rank_run import RankRun

__all__ = ["ReportParts"]

T = TypeVar("T")


class ReportParts:
    """Makes parts of a report one by one; what fails is an event, and None in the report.

    Args:
        run: on this rank.
    """

    def __init__(self, run: RankRun) -> None:
        self._run = run
        self._own: list[tuple[str, Failure]] = []
        self.failures: list[ReportFailure] = []

    def shared(self, part: str, work: Callable[[], T]) -> T | None:
        """Return what all ranks make together; None, on all of them, where one could not.

        Raises:
            AttemptFailedError: on all ranks, when the API asked to stop.
            PeerLostError: a rank died.
        """
        try:
            return work()
        except AttemptFailedError as error:
            if error.failure.stop is not None:
                raise
            self._note(part, error.failure)
            return None

    def alone(self, part: str, work: Callable[[], T]) -> T | None:
        """Return what this rank makes, without the others; None where it could not. ``exchange`` tells the others.

        Raises:
            StopRequestedError: the API asked to stop.
        """
        try:
            return work()
        except Exception as error:
            failure = diagnose_rank(error, self._run.ranks.where(phase="evaluation"))
            if failure.stop is not None:
                raise
            self._own.append((part, failure))
            return None

    def exchange(self) -> None:
        """Tell all ranks what any of them could not make alone; a collective."""
        for failed in self._run.ranks.gather(self._own):
            for part, failure in failed:
                self._note(part, failure)
        self._own = []

    def _note(self, part: str, failure: Failure) -> None:
        self.failures.append(ReportFailure(part=part, reason=failure.reason, message=failure.message))
        message = f"{part} could not be made, and the report is without it: {failure.message}"
        self._run.event("report_part_failed", message, part=part, reason=failure.reason, **failure.data)
