"""What others may be told of: the events of jobs that a webhook can ask for."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Notice"]


class Notice(StrEnum):
    """An event that is sent to webhooks; a new state of a job has its name."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ATTEMPT_LOST = "attempt_lost"
    ATTEMPT_STOPPED = "attempt_stopped"
    ALERT = "alert"
    ALERT_OVER = "alert_over"
