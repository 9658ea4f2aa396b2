"""States of a job, and the reasons for which one ends, or an attempt at it."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "ACTIVE",
    "INTERRUPTIONS",
    "RETRYABLE",
    "TERMINAL",
    "TRANSITIONS",
    "CheckpointCause",
    "JobState",
    "ReasonCode",
    "StopReason",
    "SweepState",
    "TrialState",
]


class JobState(StrEnum):
    """Where a job is in its life; ``TRANSITIONS`` says where it may go from there."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.PAUSED, JobState.CANCELLED, JobState.FAILED}),
    # starting, running -> queued: the cluster took no job, or the attempt was lost or interrupted; it waits.
    JobState.STARTING: (_ENDS - {JobState.SUCCEEDED}) | {JobState.RUNNING, JobState.QUEUED, JobState.PAUSING},
    JobState.RUNNING: _ENDS | {JobState.QUEUED, JobState.PAUSING},
    # It may come to its end before it has stopped.
    JobState.PAUSING: _ENDS | {JobState.PAUSED},
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
# These hold a part of the cluster.
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.PAUSING})


class StopReason(StrEnum):
    """Why a run is asked to stop at its next step, with a checkpoint."""

    CANCEL = "cancel"
    # Of a trial that its sweep gives up.
    PRUNED = "pruned"
    PAUSE = "pause"
    TIMEOUT = "timeout"
    # Of all runs, as the service ends; the job goes on when it is started again.
    SERVICE_STOPPED = "service_stopped"
    # Of a run, by itself: Ray drains a node of it, which will be gone soon.
    NODE_DRAINED = "node_drained"


class CheckpointCause(StrEnum):
    """Why a checkpoint was written."""

    STEPS = "steps"
    MINUTES = "minutes"
    BEST = "best"
    ASKED = "asked"
    STOPPED = "stopped"
    FINISHED = "finished"


class ReasonCode(StrEnum):
    """Why a job failed or was pruned, or an attempt at it ended before its time."""

    DIVERGED = "diverged"
    SOLVER_STUCK = "solver_stuck"
    OUT_OF_MEMORY = "out_of_memory"
    DATA_ERROR = "data_error"
    PLUGIN_ERROR = "plugin_error"
    CANNOT_FIT = "cannot_fit"
    WORKER_LOST = "worker_lost"
    CLUSTER_LOST = "cluster_lost"
    TIMEOUT = "timeout"
    INTERNAL = "internal"
    SERVICE_STOPPED = "service_stopped"
    NODE_DRAINED = "node_drained"
    PRUNED = "pruned"


class SweepState(StrEnum):
    """Whether a sweep begins trials; the jobs of one that has ended may still be stopping."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    """What came of a trial; while it is open, its job's state says more."""

    OPEN = "open"
    SUCCEEDED = "succeeded"
    PRUNED = "pruned"
    FAILED = "failed"
    CANCELLED = "cancelled"


# What is bound to happen again is not tried again.
RETRYABLE = frozenset({ReasonCode.WORKER_LOST, ReasonCode.CLUSTER_LOST})
# These end an attempt and never a job, which goes on from where the attempt stopped: nothing was lost.
INTERRUPTIONS = frozenset({ReasonCode.SERVICE_STOPPED, ReasonCode.NODE_DRAINED})
