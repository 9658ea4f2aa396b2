"""States of a job, and the reasons for which one ends."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ACTIVE", "CANCELLABLE", "TERMINAL", "TRANSITIONS", "JobState", "ReasonCode"]


class JobState(StrEnum):
    """Where a job is in its life; ``TRANSITIONS`` says where it may go from there."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.CANCELLED, JobState.FAILED}),
    # starting -> queued: the cluster took no job (unreachable, say); it waits for its turn again.
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING})
CANCELLABLE = ACTIVE | {JobState.QUEUED}


class ReasonCode(StrEnum):
    """Why a job failed."""

    DIVERGED = "diverged"
    SOLVER_STUCK = "solver_stuck"
    OUT_OF_MEMORY = "out_of_memory"
    DATA_ERROR = "data_error"
    CANNOT_FIT = "cannot_fit"
    WORKER_LOST = "worker_lost"
    CLUSTER_LOST = "cluster_lost"
    INTERNAL = "internal"
