"""The driver of one attempt: ``python -m symadj.workers.run`` with the order in ``SYMADJ_RUN_ORDER``.

It checks the data, starts the workers through Ray Train, waits, and reports how the attempt ended. Everything that is
expected to go wrong in training is caught by the workers and comes back as an outcome; what arrives here as an
exception is the loss of a worker or of the cluster, or a fault in symadj.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from symadj.service.contract.layout import ray_folder
from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import ClosedRecord, EventRecord, OutcomeRecord
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.resources import GpuResources
from symadj.service.contract.states import ReasonCode
from symadj.service.contract.storage import Bucket, is_url, open_storage
from symadj.workers.data import DataError, load_data
from symadj.workers.delivery.sender import Outbox, TelemetryError, flush_timeout, open_sender
from symadj.workers.files.retries import retry_while_unreachable
from symadj.workers.model.images import check_images
from symadj.workers.outcome import LESS_MEMORY, Failure, StopAsked
from symadj.workers.ray.oom_kills import oom_kills

__all__ = ["main"]

log = logging.getLogger("symadj.run")

ORDER_VARIABLE = "SYMADJ_RUN_ORDER"

# Ray Train's settings, read by its controller and workers from the driver's environment.
_RAY_TRAIN_SETTINGS = {
    # How often the controller looks at its workers, and so how late it notices that they have finished.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # Without it a collective of Ray Train's own waits for ever for a rank that does not come.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    # Long enough for a large cluster to start processes, short enough that a job which cannot fit says so.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    # Watches for nodes that are about to be taken back: a process of its own, and we do not act on its word.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# Starts of the worker group that may fail before the attempt does.
_START_FAILURES = 2


def main() -> int:
    """Run the attempt; return 0 when its outcome was delivered, whatever it is, or is not wanted any more."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # httpx tells of every request at this level.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    order = RunOrder.model_validate_json(os.environ[ORDER_VARIABLE])
    if not is_url(order.storage):  # the workers run in another folder
        order = order.model_copy(update={"storage": os.path.abspath(order.storage)})
    sender = open_sender(order, "driver")
    try:
        outcome = _attempt(order, sender)
        log.info("outcome: %s", outcome)
        if outcome is None:
            return 0
        sender.put(OutcomeRecord(time=datetime.now(UTC), **outcome))
        sender.put(ClosedRecord(time=datetime.now(UTC)))
        return 0 if sender.flush(flush_timeout()) or sender.superseded else 1
    except TelemetryError:
        log.exception("the outcome could not be delivered")
        return 1
    finally:
        sender.close()


def _attempt(order: RunOrder, outbox: Outbox) -> dict[str, Any] | None:
    """Train, and return the fields of the outcome; None when the attempt is not wanted any more."""
    killed_before = oom_kills()
    try:
        refusal = retry_while_unreachable(outbox, lambda: _unfit_data(order.spec))
        if refusal is not None:
            return refusal.outcome()
        # Ray Train writes there, and would take no answer for a fault of the run.
        retry_while_unreachable(outbox, lambda: open_storage(order.storage).check())
        outbox.put(
            EventRecord(
                time=datetime.now(UTC),
                name="workers_starting",
                message=f"Ray Train starts {order.workers} workers",
            )
        )
        outcome: dict[str, Any] | None = _fit(order)
        return outcome
    except StopAsked as stop:
        return Failure.stopped(stop.wish, {"phase": "storage"}).outcome()
    except Exception as error:
        from symadj.workers.ray.failures import diagnose

        log.exception("the workers did not return")
        failure = diagnose(error)
        if failure.reason is ReasonCode.WORKER_LOST and oom_kills() != killed_before:
            failure = Failure(
                ReasonCode.OUT_OF_MEMORY,
                "the kernel ended a process on the driver's node because its memory was used up, and a worker died",
                failure.data | {"of": "host", "advice": LESS_MEMORY},
            )
        return failure.outcome()


def _unfit_data(spec: JobSpec) -> Failure | None:
    """Load and check the data before any worker is placed; return why they can't be trained on."""
    try:
        check_images(spec.flow, load_data(spec.data).shape)
    except DataError as error:
        return Failure(ReasonCode.DATA_ERROR, str(error), {"phase": "data", **error.place})
    return None


def _fit(order: RunOrder) -> Any:
    """Run ``train_worker`` in all workers and return what rank 0 returns."""
    for name, value in _RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.train import FailureConfig, RunConfig

    from symadj.workers.ray.backend import ProcessGroupConfig
    from symadj.workers.ray.trainer import Trainer

    ray.init(logging_level=logging.WARNING)
    gpu = isinstance(order.spec.resources, GpuResources)
    trainer = Trainer(
        train_worker,
        train_loop_config={
            "order": order.model_dump_json(),
            "environment": {k: v for k, v in os.environ.items() if k.startswith("SYMADJ_") and k != ORDER_VARIABLE},
        },
        backend_config=ProcessGroupConfig("nccl" if gpu else "gloo"),
        scaling_config=_scaling(order, gpu),
        run_config=RunConfig(
            # A name that was there before would make Ray Train look for what to go on from; we do that ourselves.
            name=f"{order.job_id}-{order.attempt}",
            **_ray_storage(order),
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=_START_FAILURES
            ),
        ),
    )
    return trainer.fit().return_value


def _ray_storage(order: RunOrder) -> dict[str, Any]:
    """Return where Ray Train keeps its own notes, and looks whether all nodes see the same files."""
    storage, path = open_storage(order.storage), ray_folder(order.job_id)
    if not isinstance(storage, Bucket):
        return {"storage_path": storage.name(path)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": storage.path(path), "storage_filesystem": PyFileSystem(FSSpecHandler(storage.files))}


def _scaling(order: RunOrder, gpu: bool) -> Any:
    from ray.train import ScalingConfig

    wanted = order.spec.resources
    resources: dict[str, float] = {"CPU": wanted.cpus_per_worker}
    if gpu:
        resources["GPU"] = 1
    if wanted.memory_budget is not None:
        resources["memory"] = int(wanted.memory_budget)
    return ScalingConfig(num_workers=order.workers, use_gpu=gpu, resources_per_worker=resources)


def train_worker(config: dict[str, Any]) -> dict[str, Any] | None:
    """What Ray Train runs in each worker; only rank 0's answer is used."""
    os.environ.update(config["environment"])
    from symadj.workers.attempt import run_worker

    return run_worker(RunOrder.model_validate_json(config["order"]))


if __name__ == "__main__":
    sys.exit(main())
