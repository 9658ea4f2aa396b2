"""Small runs for the tests: specs, an outbox that keeps what it is given, and an attempt in this process."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import AnyRecord
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import StopReason
from symadj.service.contract.storage import open_storage
from symadj.service.settings import Settings
from symadj.workers.attempt import AttemptRun
from symadj.workers.distributed.ranks import Ranks
from symadj.workers.outcome import StopRequestedError
from symadj.workers.rank_run import RankRun
from symadj_core.memory import PeakMeter

SMALL: dict[str, Any] = {
    "data": {"kind": "toy", "name": "moons", "rows": 400, "batch_size": 32},
    "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [8]}},
    "solver": {"kind": "adaptive", "rtol": 1e-2, "atol": 1e-3},
    "optimizer": {"kind": "adam", "learning_rate": 1e-2},
    "stop": {"kind": "steps", "max_steps": 6},
    "evaluation": {"validate_every_steps": 4, "mixture_components": 2, "plots": False},
}


class KeepingOutbox:
    """An outbox that delivers nowhere and keeps the records in order.

    Args:
        stop_after: ask to stop once so many steps were reported.
        stop_at: ask to stop once an event of this name was put.
        superseded_after: say that the attempt is not wanted once so many steps were reported.
        reason: for stopping.
    """

    def __init__(
        self,
        stop_after: int | None = None,
        superseded_after: int | None = None,
        reason: StopReason = StopReason.CANCEL,
        stop_at: str | None = None,
    ) -> None:
        self.records: list[AnyRecord] = []
        self.checkpoints_asked = 0
        self._stop_after = stop_after
        self._stop_at = stop_at
        self._reason = reason
        self._superseded_after = superseded_after

    @property
    def stop(self) -> StopReason | None:
        asked = self._stop_after is not None and len(self.series("step_seconds")) >= self._stop_after
        asked = asked or self._stop_at in [event.name for event in self.of("event")]
        return self._reason if asked else None

    @property
    def superseded(self) -> bool:
        return self._superseded_after is not None and len(self.series("step_seconds")) >= self._superseded_after

    def put(self, record: AnyRecord) -> None:
        self.records.append(record)

    def raise_if_stopped(self) -> None:
        if self.stop is not None:
            raise StopRequestedError(self.stop)

    def flush(self, timeout: float) -> bool:
        return True

    def of(self, kind: str) -> list[Any]:
        return [record for record in self.records if record.kind == kind]

    def series(self, metric: str) -> list[float]:
        return [record.metrics[metric] for record in self.of("step") if metric in record.metrics]


def order(storage: Path | str, attempt: int = 1, **changes: Any) -> RunOrder:
    """An order for ``SMALL`` with some top-level fields of the spec replaced."""
    settings = Settings()
    return RunOrder(
        job_id="job-1",
        attempt=attempt,
        api_url="http://127.0.0.1:9",
        storage=str(storage),
        data_roots=settings.resolved_data_roots(),
        data_cache=None if settings.data_cache is None else str(settings.data_cache),
        storage_patience_seconds=settings.storage_patience_s,
        workers=1,
        spec=JobSpec.model_validate(SMALL | changes),
    )


def rank_run(order: RunOrder, outbox: KeepingOutbox) -> RankRun:
    """The run of an order on the only rank."""
    return RankRun(order, Ranks(torch.device("cpu")), outbox)


def run(storage: Path | str, outbox: KeepingOutbox | None = None, attempt: int = 1, **changes: Any) -> tuple[Any, Any]:
    """Run an attempt as the only rank; return the outcome and the outbox. A first attempt starts afresh."""
    if attempt == 1:
        open_storage(str(storage)).remove("job-1")
    outbox = outbox or KeepingOutbox()
    return AttemptRun(rank_run(order(storage, attempt, **changes), outbox)).run(), outbox


def held_bytes() -> int:
    """Return what this process holds once it has given back what is free, as it does before each step that is measured:
    other tests may have left much."""
    gc.collect()
    with PeakMeter(torch.device("cpu")).window() as window:
        pass
    return window.host_start_bytes or 0


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``room`` bytes, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
