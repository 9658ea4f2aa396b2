"""Where the files of a job lie in the storage, by paths from its root, and what they are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["MANIFEST", "CheckpointName", "artifact_folder", "checkpoint_folder", "job_folder", "ray_folder"]

# The file of a checkpoint that says what it is, with the size and SHA-256 of its other files. It is written last and
# removed first: a checkpoint that has it is whole.
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CheckpointName:
    """The name of a checkpoint's folder, such as ``step-000000400-attempt-2``.

    The attempt that wrote the checkpoint is a part of its name, so that an attempt which was given up, and does not
    know it yet, overwrites nothing of the next one's.

    Attributes:
        step: steps completed.
        attempt: that wrote it; 0 for a parent's checkpoint, from which a new job begins.
    """

    PATTERN: ClassVar[str] = r"^step-(\d{9,19})-attempt-(\d{1,9})$"

    step: int
    attempt: int

    @classmethod
    def parse(cls, name: str) -> CheckpointName:
        """Return what the name of a folder says.

        Raises:
            ValueError: it is not a checkpoint's.
        """
        match = re.fullmatch(cls.PATTERN, name, re.ASCII)
        if match is None:
            raise ValueError(f"{name!r} is not the name of a checkpoint, such as {cls(400, 2)}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"step-{self.step:09d}-attempt-{self.attempt}"


def job_folder(job_id: str) -> str:
    """Return the folder of one job."""
    return job_id


def artifact_folder(job_id: str, attempt: int) -> str:
    """Return the folder of the finished files of an attempt; each has its own, so that none writes into another's."""
    return f"{job_folder(job_id)}/artifacts/{attempt}"


def checkpoint_folder(job_id: str) -> str:
    """Return the folder of a job's checkpoints, one folder each."""
    return f"{job_folder(job_id)}/checkpoints"


def ray_folder(job_id: str) -> str:
    """Return the folder in which Ray Train keeps its own notes on a job."""
    return f"{job_folder(job_id)}/ray"
