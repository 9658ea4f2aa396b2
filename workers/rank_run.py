"""A run as all parts of it see it on one rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import EventRecord
from symadj.service.contract.spec import JobSpec
from symadj.workers.delivery.outbox import Outbox
from symadj.workers.distributed.ranks import Ranks
from symadj.workers.files.artifacts import ArtifactFolder
from symadj.workers.files.retries import Retries

__all__ = ["RankRun"]


@dataclass(frozen=True)
class RankRun:
    """The collaborators that training, checkpoints and evaluation of an attempt share on one rank.

    Attributes:
        order: what to do.
        ranks: this rank among the others.
        outbox: takes this rank's records, and says whether the run must stop.
    """

    order: RunOrder
    ranks: Ranks
    outbox: Outbox

    @property
    def spec(self) -> JobSpec:
        """The spec of the training."""
        return self.order.training

    @cached_property
    def retries(self) -> Retries:
        """Repeats what failed because the storage was full or did not answer."""
        return Retries(self.outbox, self.order.storage_patience_seconds)

    @cached_property
    def artifacts(self) -> ArtifactFolder:
        """Where finished files go."""
        return ArtifactFolder(self.order)

    def event(self, name: str, message: str, **data: Any) -> None:
        """Report that something happened; only rank 0 does, of what happens on all ranks."""
        if self.ranks.rank == 0:
            self.outbox.put(EventRecord(name=name, message=message, data=data))

    def store(self, name: str, media_type: str, content: bytes) -> None:
        """Write a finished file and register it, as soon as the storage has room.

        Raises:
            StopRequestedError: the run must stop.
            OSError: the storage could not be written for as long as the run waits for it.
        """
        self.outbox.put(self.retries.while_full(lambda: self.artifacts.write(name, media_type, content)))

    def on_rank_0(self, work: Callable[[], None], *, phase: str) -> None:
        """Let rank 0 do ``work`` while the others wait for it; all ranks must call it.

        Raises:
            AttemptFailedError: on all ranks, when rank 0 could not do it.
        """
        self.ranks.together(lambda: work() if self.ranks.rank == 0 else None, phase=phase)
