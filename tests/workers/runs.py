"""Small runs for the tests: specs, an outbox that keeps what it is given, and an attempt in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from service.records import RunOrder
from service.spec import JobSpec
from workers.ranks import Ranks
from workers.reasons import CancelledByUser
from workers.telemetry import AnyRecord
from workers.worker import Attempt

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
        cancel_after: ask to cancel once so many step records were put.
        superseded_after: say that the attempt is not wanted once so many step records were put.
    """

    def __init__(self, cancel_after: int | None = None, superseded_after: int | None = None) -> None:
        self.records: list[AnyRecord] = []
        self._cancel_after = cancel_after
        self._superseded_after = superseded_after

    @property
    def cancel(self) -> bool:
        return self._cancel_after is not None and len(self.of("step")) >= self._cancel_after

    @property
    def superseded(self) -> bool:
        return self._superseded_after is not None and len(self.of("step")) >= self._superseded_after

    def put(self, record: AnyRecord) -> None:
        self.records.append(record)

    def heed(self) -> None:
        if self.cancel:
            raise CancelledByUser("cancelled during the evaluation")

    def flush(self, timeout: float) -> bool:
        return True

    def of(self, kind: str) -> list[Any]:
        return [record for record in self.records if record.kind == kind]

    def series(self, metric: str) -> list[float]:
        return [record.metrics[metric] for record in self.of("step") if metric in record.metrics]


def order(storage: Path, **changes: Any) -> RunOrder:
    """An order for ``SMALL`` with some top-level fields of the spec replaced."""
    return RunOrder(
        job_id="job-1",
        attempt=1,
        api_url="http://127.0.0.1:9",
        token="unused",
        storage=str(storage),
        spec=JobSpec.model_validate(SMALL | changes),
    )


def run(storage: Path, outbox: KeepingOutbox | None = None, **changes: Any) -> tuple[dict[str, Any] | None, Any]:
    """Run an attempt as the only rank; return the outcome's fields and the outbox."""
    outbox = outbox or KeepingOutbox()
    ranks = Ranks(torch.device("cpu"))
    return Attempt(order(storage, **changes), ranks, outbox).run(), outbox
