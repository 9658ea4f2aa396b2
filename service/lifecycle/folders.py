"""Where the files of a job lie in the shared storage."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SET_ASIDE", "artifact_folder", "checkpoint_folder", "job_folder", "set_aside"]

# A folder of this name and the job's id is about to be removed.
SET_ASIDE = ".deleted-"


def job_folder(storage: Path, job_id: str) -> Path:
    """Return the folder of one job."""
    return storage / job_id


def artifact_folder(storage: Path, job_id: str, attempt: int) -> Path:
    """Return the folder of the finished files of an attempt; each has its own, so that none writes into another's."""
    return job_folder(storage, job_id) / "artifacts" / str(attempt)


def checkpoint_folder(storage: Path, job_id: str) -> Path:
    """Return the folder of a job's checkpoints, one folder each."""
    return job_folder(storage, job_id) / "checkpoints"


def set_aside(storage: Path, job_id: str) -> Path:
    """Return where the folder of a job goes that is being deleted."""
    return storage / f"{SET_ASIDE}{job_id}"
