"""Reasons for an exception that Ray Train raised instead of returning the workers' outcome."""

from __future__ import annotations

from collections.abc import Iterator

import ray.exceptions
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupTimeoutError,
)

from service.states import ReasonCode
from workers.reasons import Failure

__all__ = ["diagnose"]

_LONGEST_MESSAGE = 4000


def diagnose(error: BaseException) -> Failure:
    """Return why the attempt failed, told by the exceptions within ``error``."""
    chain = list(_within(error))
    data = {"exceptions": [type(part).__name__ for part in chain]}
    text = str(error)[-_LONGEST_MESSAGE:]

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(part, kinds) for part in chain)

    if any_is(ray.exceptions.OutOfMemoryError):
        return Failure(
            ReasonCode.OUT_OF_MEMORY,
            f"Ray ended a worker because its node ran out of memory: {text}",
            data | {"advice": "take a smaller data.batch_size, gradient symplectic, or nodes with more memory"},
        )
    if any_is(WorkerGroupStartupTimeoutError, InsufficientClusterResourcesError):
        return Failure(
            ReasonCode.CANNOT_FIT,
            f"the cluster did not place the workers: {text}",
            data | {"advice": "ask for fewer workers, CPUs, GPUs or memory_budget, or enlarge the cluster"},
        )
    if isinstance(error, TrainingFailedError):
        # PeerLostError is what the other ranks see of a worker's death.
        lost = any_is(ray.exceptions.RayActorError) or "PeerLostError" in data["exceptions"]
        if lost:
            return Failure(ReasonCode.WORKER_LOST, f"a worker was lost: {text}", data)
        return Failure(ReasonCode.INTERNAL, text, data)
    if any_is(ray.exceptions.RayActorError, ray.exceptions.RaySystemError, ConnectionError):
        return Failure(ReasonCode.CLUSTER_LOST, f"the cluster was lost: {text}", data)
    return Failure(ReasonCode.INTERNAL, f"{type(error).__name__}: {text}", data)


def _within(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the exceptions that Ray Train packed into it."""
    yield error
    inner = list(getattr(error, "worker_failures", {}).values())
    for name in ("controller_failure", "health_check_failure", "_base_exc", "__cause__"):
        part = getattr(error, name, None)
        if isinstance(part, BaseException):
            inner.append(part)
    for part in inner:
        yield from _within(part)
