"""Reasons for an exception that Ray Train raised instead of returning the workers' outcome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import ray.exceptions
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
)

from symadj.service.contract.states import ReasonCode
from symadj.workers.outcome import LESS_MEMORY, Failure

__all__ = ["NO_ROOM", "dead_ranks", "diagnose_attempt"]

NO_ROOM = Failure(
    ReasonCode.CANNOT_FIT,
    "the cluster had no room for the workers",
    {"advice": "ask for fewer workers, CPUs, GPUs or memory_budget, or enlarge the cluster"},
)
_LONGEST_DETAIL = 8000
_OUT_OF_MEMORY = frozenset({"OutOfMemoryError", "MemoryError"})  # torch's and Python's


def diagnose_attempt(error: BaseException) -> Failure:
    """Return why the attempt failed, according to the exceptions within ``error``."""
    chain = list(_within(error))
    names = [type(part).__name__ for part in chain]
    # Ray's texts hold whole tracebacks: for the data, where a developer finds them.
    data = {"exceptions": names, "detail": str(error)[-_LONGEST_DETAIL:]}

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(part, kinds) for part in chain)

    if any_is(ray.exceptions.OutOfMemoryError):
        detail = next(_first_line(part) for part in chain if isinstance(part, ray.exceptions.OutOfMemoryError))
        message = f"Ray ended a worker because its node ran out of memory: {detail}"
        return Failure(ReasonCode.OUT_OF_MEMORY, message, data | {"of": "host", "advice": LESS_MEMORY})
    if any_is(WorkerGroupStartupTimeoutError, InsufficientClusterResourcesError):
        return replace(NO_ROOM, data=data | NO_ROOM.data)
    if isinstance(error, TrainingFailedError):
        # PeerLostError is what the other ranks see of a worker's death, or of one that raised something of its own.
        own = [part for part in _raised_by_ranks(chain) if type(part).__name__ != "PeerLostError"]
        if any_is(ray.exceptions.RayActorError) or ("PeerLostError" in names and not own):
            return Failure(ReasonCode.WORKER_LOST, "the process of a worker died", data)
        if any(type(part).__name__ in _OUT_OF_MEMORY for part in own):
            of = "device" if "OutOfMemoryError" in names else "host"
            message = f"a worker ran out of memory on the {of}"
            return Failure(ReasonCode.OUT_OF_MEMORY, message, data | {"of": of, "advice": LESS_MEMORY})
        chain = own or chain
    elif any_is(ray.exceptions.RayActorError, ray.exceptions.RaySystemError, ConnectionError):
        return Failure(ReasonCode.CLUSTER_LOST, "the Ray cluster was lost, or its controller of this run", data)
    return Failure(ReasonCode.INTERNAL, f"{type(chain[-1]).__name__}: {_first_line(chain[-1])}", data)


def dead_ranks(error: BaseException) -> list[int]:
    """Return the ranks whose processes died, according to the exceptions within ``error``."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    return [
        rank
        for rank, failure in failures.items()
        if any(isinstance(part, ray.exceptions.RayActorError) for part in _within(failure))
    ]


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


def _raised_by_ranks(chain: list[BaseException]) -> list[BaseException]:
    return [part._base_exc for part in chain if isinstance(part, UserExceptionWithTraceback)]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
