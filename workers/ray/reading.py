"""The first look at a run's data, before its workers are placed: with the share of one of them, for a limited time.

The driver itself reserves nothing, and can't end a read that hangs. So a process of Ray's looks, which has a worker's
CPUs and ``memory_budget`` of what the job was given; when it is done, or took too long, it ends and gives that back.
"""

from __future__ import annotations

import contextlib

import ray
import ray.exceptions

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.order import RunOrder
from symadj.service.contract.spec import JobSpec, ScoresSpec
from symadj.service.contract.spec.flow import CnfFlow, PluginField
from symadj.service.contract.states import ReasonCode
from symadj.service.contract.storage import StorageUnreachableError
from symadj.workers.data import DataError, PreparedData, data_roots, load_data, name_of
from symadj.workers.model.image_shapes import check_images
from symadj.workers.outcome import Failure
from symadj.workers.ray.failures import NO_ROOM
from symadj.workers.scores.rows import check_rows_of
from symadj_core.errors import PluginError

__all__ = ["Look", "look_at_data", "read_data"]

# What was read, None where nothing could be; and why it can't be used, None where it can.
Look = tuple[DataSummary | None, Failure | None]


def read_data(order: RunOrder) -> Look:
    """Load and check the data of a run in this process; of a training, that a field of the user's own takes them.

    Raises:
        StorageUnreachableError: a bucket does not answer.
    """
    read: list[DataSummary] = []
    try:
        if isinstance(order.spec, ScoresSpec):
            check_rows_of(order, read.append)
        else:
            data = load_data(order.spec.data, data_roots(order), read.append)
            if (why := order.spec.too_few(data.training_rows)) is not None:
                raise DataError(why)
            check_images(order.spec.flow, data.shape)
            _check_plugin(order.spec, data)
    except PluginError as error:
        return read[0], Failure(ReasonCode.PLUGIN_ERROR, str(error), {"phase": "data"})
    except DataError as error:
        return next(iter(read), None), Failure(ReasonCode.DATA_ERROR, str(error), {"phase": "data", **error.place})
    return read[0], None


def _check_plugin(spec: JobSpec, data: PreparedData) -> None:
    """Refuse a field of a package that can't be had on this node, or does not take such rows.

    Raises:
        DataError, PluginError: as ``build_flow``.
    """
    if isinstance(spec.flow, CnfFlow) and isinstance(spec.flow.field, PluginField):
        # Only then is torch loaded before the workers are placed.
        from symadj.workers.model.build import build_flow

        build_flow(spec, data.dim, data.context_dim)


class _Reader:
    """A process of Ray's that reads."""

    def started(self) -> None:
        """Return once it runs."""

    def look(self, order: str) -> Look | str:
        """Return what ``read_data`` does; what a bucket that does not answer says."""
        try:
            return read_data(RunOrder.of_json(order))
        except StorageUnreachableError as error:  # Ray would make another class of it
            return str(error)


def look_at_data(order: RunOrder, start_seconds: float) -> Look:
    """Have the data of a run loaded and checked by a process of Ray's, within ``order.data_timeout_seconds``.

    Args:
        start_seconds: for which Ray may look for room.

    Raises:
        StorageUnreachableError: a bucket does not answer.
        ray.exceptions.OutOfMemoryError: Ray ended the process because its node ran out of memory.
    """
    resources = order.spec.resources
    share = {"num_cpus": resources.cpus_per_worker, "memory": resources.memory_budget or None}
    reader = ray.remote(_Reader).options(max_restarts=0, **share).remote()
    seconds = order.data_timeout_seconds
    try:
        try:
            ray.get(reader.started.remote(), timeout=start_seconds)
        except ray.exceptions.GetTimeoutError:
            return None, NO_ROOM
        try:
            found = ray.get(reader.look.remote(order.model_dump_json()), timeout=seconds)
        except ray.exceptions.GetTimeoutError:
            return None, _too_slow(order)
        except ray.exceptions.OutOfMemoryError:
            raise  # as of a worker
        except ray.exceptions.RayActorError as error:
            data = {"phase": "data", "detail": str(error)}
            return None, Failure(ReasonCode.WORKER_LOST, "the process that read the data died", data)
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(reader)
    if isinstance(found, str):
        raise StorageUnreachableError(found)
    looked: Look = found
    return looked


def _too_slow(order: RunOrder) -> Failure:
    name = name_of(order.spec.data)
    message = (
        f"{name or 'the data set'} was not read within {order.data_timeout_seconds:g} s: see whether the disk or "
        "bucket that it lies on answers; if it does, allow more time (SYMADJ_DATA_TIMEOUT_S where the service is "
        "started), or use fewer rows"
    )
    return Failure(ReasonCode.DATA_ERROR, message, {"phase": "data"} | ({} if name is None else {"file": name}))
