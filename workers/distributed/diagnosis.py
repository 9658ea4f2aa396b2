"""From an exception of a training loop to the reason and the advice that the user gets."""

from __future__ import annotations

import traceback
from typing import Any

import torch

from symadj.service.contract.states import ReasonCode
from symadj.service.contract.storage import StorageError
from symadj.workers.data import DataError
from symadj.workers.files.checkpoints import CorruptCheckpointError
from symadj.workers.files.retries import FULL
from symadj.workers.outcome import LESS_MEMORY, Failure, StopRequestedError
from symadj_core.errors import PluginError, SolverError, Status

__all__ = ["diagnose_rank", "diverged", "over_budget"]

_LONGEST_TRACE = 8000


def diagnose_rank(error: Exception, where: dict[str, Any]) -> Failure:
    """Return why ``error`` ends the run.

    Args:
        error: what a rank's own work raised; the loss of a peer is reported elsewhere.
        where: rank, phase, step and last measured memory, for the outcome's data.
    """
    match error:
        case SolverError(reason=Status.NON_FINITE):
            return diverged(f"the state became non-finite: {error}", where | _place(error))
        case SolverError():
            return Failure(ReasonCode.SOLVER_STUCK, str(error), where | _place(error))
        case StopRequestedError():
            return Failure.stopped(error.reason, where)
        case CorruptCheckpointError():
            return Failure(ReasonCode.DATA_ERROR, str(error), where)
        case PluginError():
            return Failure(ReasonCode.PLUGIN_ERROR, str(error), where)
        case DataError():
            return Failure(ReasonCode.DATA_ERROR, str(error), where | error.place)
    if _is_out_of_memory(error):
        of = "device" if isinstance(error, torch.OutOfMemoryError) else "host"
        data = where | {"of": of, "advice": LESS_MEMORY}
        return Failure(ReasonCode.OUT_OF_MEMORY, f"out of memory on the {of}: {error}", data)
    if isinstance(error, OSError) and error.errno in FULL:
        advice = "make room on the storage (GET /api/v1/usage shows who uses it) and submit the job again"
        return Failure(ReasonCode.INTERNAL, f"there was no room on the storage: {error}", where | {"advice": advice})
    if isinstance(error, StorageError):
        advice = "see to the bucket, its credentials and SYMADJ_STORAGE, and submit the job again; checkpoints are kept"
        return Failure(ReasonCode.INTERNAL, f"the storage could not be used: {error}", where | {"advice": advice})
    trace = "".join(traceback.format_exception(error))[-_LONGEST_TRACE:]
    return Failure(ReasonCode.INTERNAL, f"{type(error).__name__}: {error}", where | {"traceback": trace})


def diverged(message: str, where: dict[str, Any]) -> Failure:
    """Return the failure of a run whose loss, gradient or state is not finite."""
    advice = (
        "lower optimizer.learning_rate or give it warmup_steps, set optimizer.clip_norm, tighten the solver's "
        "tolerances, or train in float64"
    )
    return Failure(ReasonCode.DIVERGED, message, where | {"advice": advice})


def over_budget(budget: int, peak: int, where: dict[str, Any]) -> Failure:
    """Return the failure of a run that was not to hold more than ``budget`` bytes in a worker, and held ``peak``."""
    data = where | {"of": "host", "advice": LESS_MEMORY, "memory_budget_bytes": budget, "peak_bytes": peak}
    message = (
        f"rank {where['rank']} held {peak} bytes in step {where['step']}, more than its memory_budget of {budget}; "
        "resources.over_budget is fail"
    )
    return Failure(ReasonCode.OUT_OF_MEMORY, message, data)


def _place(error: SolverError) -> dict[str, Any]:
    return {"t": error.t, "dt": error.dt, "solver_step": error.step, "solver_reason": error.reason}


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
