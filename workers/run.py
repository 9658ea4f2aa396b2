"""The driver of one attempt: ``python -m symadj.workers.run``, with the place of its order in ``SYMADJ_RUN_ORDER``.

It checks the data, starts the workers through Ray Train, waits, and reports how the attempt ended. Everything that is
expected to go wrong in training is caught by the workers and comes back as an outcome; what arrives here as an
exception is the loss of a worker or of the cluster, or a fault in symadj.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from symadj.service.contract.layout import ray_folder
from symadj.service.contract.order import (
    PLACE_VARIABLE,
    STORAGE_PATIENCE_S,
    TOKEN_VARIABLE,
    RunOrder,
    read_order,
    take_token,
)
from symadj.service.contract.output import outputs_of_this_process
from symadj.service.contract.records import ClosedRecord, DataRecord, EventRecord, OutcomeRecord
from symadj.service.contract.spec import ScoresSpec
from symadj.service.contract.spec.resources import GpuResources
from symadj.service.contract.spec.section import STORED
from symadj.service.contract.states import ReasonCode
from symadj.service.contract.storage import Bucket, StorageUnreachableError, open_storage, split_places
from symadj.workers.data.summary import in_words
from symadj.workers.delivery.capture import captured
from symadj.workers.delivery.outbox import Outbox, TelemetryError
from symadj.workers.delivery.sender import open_sender
from symadj.workers.files.retries import Retries
from symadj.workers.outcome import Failure, StopRequestedError
from symadj.workers.scores.advice import with_advice

if TYPE_CHECKING:
    from symadj.workers.ray.node_memory import NodeMemory

__all__ = ["main"]

log = logging.getLogger("symadj.run")
T = TypeVar("T")

# Seconds for Ray to start processes: long enough for a large cluster, short enough that what can't fit says so.
_START_TIMEOUT_S = 120
# Ray Train's settings, read by its controller and workers from the driver's environment.
_RAY_TRAIN_SETTINGS = {
    # How often the controller looks at its workers, and so how late it notices that they have finished.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # Without it a collective of Ray Train's own waits for ever for a rank that does not come.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(_START_TIMEOUT_S),
    # Else a line that a worker prints is there twice: on its stdout, and by a logger on its stderr.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Watches for nodes that are about to be taken back, in a process of its own: rank 0 does (workers/ray/draining.py).
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# Starts of the worker group that may fail before the attempt does.
_START_FAILURES = 2


def main() -> int:
    """Run the attempt; return 0 when its outcome was delivered, whatever it is, or the attempt was replaced."""
    _speak()
    order, token = _order_and_token(os.environ)
    sender = open_sender(order, token, "driver")
    try:
        with captured(sender, outputs_of_this_process(), token):
            outcome = _attempt(order, token, sender)
            if outcome is not None and isinstance(order.spec, ScoresSpec):
                outcome = with_advice(outcome)
            log.info("outcome: %s", "none" if outcome is None else outcome.reason or outcome.state)
        if outcome is None:
            return 0
        sender.put(outcome)
        sender.put(ClosedRecord())
        return 0 if sender.flush(order.flush_timeout_seconds) or sender.superseded else 1
    except TelemetryError:
        log.exception("the outcome could not be delivered")
        return 1
    finally:
        sender.close()


def _speak() -> None:
    """Let this process print what happens, and where it was should native code crash."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("symadj").setLevel(logging.INFO)
    faulthandler.enable()


def _order_and_token(environment: Mapping[str, str]) -> tuple[RunOrder, str]:
    place = environment[PLACE_VARIABLE]
    if place.startswith("{"):
        return _order_of_first_version(place, environment)
    order = _patiently(read_order, place)
    return order, environment.get(TOKEN_VARIABLE) or _patiently(take_token, place)


def _order_of_first_version(text: str, environment: Mapping[str, str]) -> tuple[RunOrder, str]:
    """Return the order of a run that the first version submitted, which put all of it into the environment."""
    fields = json.loads(text) | {
        "data_roots": split_places(environment.get("SYMADJ_DATA_ROOTS", "")),
        "data_cache": environment.get("SYMADJ_DATA_CACHE"),
        "spool": environment.get("SYMADJ_SPOOL_DIR"),
    }
    return RunOrder.model_validate(fields, context=STORED), fields["token"]


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(StorageUnreachableError),
    wait=tenacity.wait_fixed(1.0),
    stop=tenacity.stop_after_delay(STORAGE_PATIENCE_S),  # the order, which may say otherwise, is not read yet
    before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
    reraise=True,
)
def _patiently(read: Callable[[str], T], place: str) -> T:
    return read(place)


def _attempt(order: RunOrder, token: str, outbox: Outbox) -> OutcomeRecord | None:
    """Train, or score rows, and return the outcome; None when the attempt was replaced."""
    memory: NodeMemory | None = None
    retries = Retries(outbox, order.storage_patience_seconds)
    try:
        memory = _start_ray()
        refusal = retries.while_unreachable(lambda: _unfit_data(order, outbox))
        if refusal is not None:
            return memory.explain(refusal, order.spec.resources.memory_budget).outcome()
        # Ray Train writes there, and would take a storage that is away for a fault of the run.
        retries.while_unreachable(lambda: open_storage(order.storage).check())
        outbox.put(EventRecord(name="workers_starting", message=f"Ray Train starts {order.workers} workers"))
        return _fit(order, token)
    except StopRequestedError as stop:
        return Failure.stopped(stop.reason, {"phase": "storage"}).outcome()
    except Exception as error:
        from symadj.workers.ray.failures import diagnose_attempt

        log.exception("the workers did not return")
        failure = diagnose_attempt(error)
        if memory is not None:
            failure = memory.explain(failure, order.spec.resources.memory_budget)
            if failure.reason in (ReasonCode.WORKER_LOST, ReasonCode.OUT_OF_MEMORY):
                failure = _with_last_words(failure, error, order, token)
        return failure.outcome()


def _with_last_words(failure: Failure, error: BaseException, order: RunOrder, token: str) -> Failure:
    """Return the failure with what the rank that died printed last, where that can be had."""
    from symadj.workers.ray.failures import dead_ranks
    from symadj.workers.ray.last_words import quote, take_last_words

    try:
        return quote(failure, dead_ranks(error), take_last_words(order, token))
    except Exception:  # Ray's own troubles: the failure is known without it
        log.exception("what the workers printed last could not be had")
        return failure


def _unfit_data(order: RunOrder, outbox: Outbox) -> Failure | None:
    """Have the data checked before any worker is placed, say what they are; return why they can't be trained on."""
    from symadj.workers.ray.reading import look_at_data

    # While another process reads, this one would only wait. What goes wrong here does so again where it is needed.
    threading.Thread(target=import_module, args=("symadj.workers.ray.trainer",), daemon=True).start()
    summary, refusal = look_at_data(order, _START_TIMEOUT_S)
    if summary is not None:
        outbox.put(DataRecord(summary=summary))
        outbox.put(EventRecord(name="data_read", message=in_words(summary)))
    return refusal


def _start_ray() -> NodeMemory:
    """Connect to the cluster, which has this driver as one of its jobs; return how its nodes' memory is."""
    for name, value in _RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    from symadj.workers.ray.node_memory import NodeMemory

    # What the workers print is sent by themselves: here it would be there twice.
    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    return NodeMemory()


def _fit(order: RunOrder, token: str) -> OutcomeRecord | None:
    """Run ``train_worker`` in all workers and return what rank 0 returns."""
    import ray
    from ray.train import FailureConfig, RunConfig

    from symadj.workers.ray.backend import ProcessGroupConfig
    from symadj.workers.ray.trainer import Trainer

    node = ray.get_runtime_context().get_node_id()
    gpu = isinstance(order.spec.resources, GpuResources)
    trainer = Trainer(
        train_worker,
        train_loop_config={"order": order.model_dump_json(), "token": token, "driver_node": node},
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
    outcome: OutcomeRecord | None = trainer.fit().return_value
    return outcome


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


def train_worker(config: dict[str, Any]) -> OutcomeRecord | None:
    """What Ray Train runs in each worker; only rank 0's answer is used."""
    from symadj.workers.attempt import run_worker
    from symadj.workers.ray.draining import watch_nodes

    _speak()
    watch = partial(watch_nodes, config["driver_node"])
    outputs = outputs_of_this_process()
    return run_worker(RunOrder.of_json(config["order"]), config["token"], watch, outputs)


if __name__ == "__main__":
    sys.exit(main())
