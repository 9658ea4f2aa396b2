"""Where the files of a job lie in the storage, by paths from its root."""

from __future__ import annotations

__all__ = ["artifact_folder", "checkpoint_folder", "job_folder"]


def job_folder(job_id: str) -> str:
    """Return the folder of one job."""
    return job_id


def artifact_folder(job_id: str, attempt: int) -> str:
    """Return the folder of the finished files of an attempt; each has its own, so that none writes into another's."""
    return f"{job_folder(job_id)}/artifacts/{attempt}"


def checkpoint_folder(job_id: str) -> str:
    """Return the folder of a job's checkpoints, one folder each."""
    return f"{job_folder(job_id)}/checkpoints"
