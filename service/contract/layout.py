"""Where the files of jobs and the uploads lie in the storage, by paths from its root, and what they are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "CONFIG",
    "MANIFEST",
    "SCORES_FILE",
    "UPLOADS",
    "WEIGHTS",
    "CheckpointName",
    "artifact_folder",
    "check_folder",
    "checkpoint_folder",
    "flow_folder",
    "job_folder",
    "order_file",
    "piece_folder",
    "ray_folder",
    "token_file",
    "upload_mark",
    "upload_of",
    "uploaded_file",
]

# The file of a checkpoint that says what it is, with the size and SHA-256 of the others. It is written last and removed
# first: a checkpoint that has one when the others are there is whole.
MANIFEST = "manifest.json"
# Artifacts: of a training the files that its flow is loaded from, of a job that scores rows the scores.
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
SCORES_FILE = "scores.parquet"
# The folder at the root, of no job, that names the jobs and uploads of which files come in.
UPLOADS = ".uploads"


@dataclass(frozen=True, order=True)
class CheckpointName:
    """The name of a checkpoint's folder, ``step-000000400-attempt-2``.

    The attempt that wrote it is a part of it, so that an attempt which was given up, and does not know it yet, writes
    over nothing of the next one's. Attempt 0 is a parent's checkpoint, from which a new job begins.

    Attributes:
        step: steps completed.
        attempt: that wrote it.
    """

    step: int
    attempt: int

    PATTERN: ClassVar[str] = r"^step-([0-9]{9,19})-attempt-([0-9]{1,9})$"

    def __str__(self) -> str:
        return f"step-{self.step:09d}-attempt-{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """Return what a folder's name says, None if it is not a checkpoint's."""
        match = re.fullmatch(cls.PATTERN, name)
        return cls(int(match[1]), int(match[2])) if match else None


def job_folder(job_id: str) -> str:
    """Return the folder of one job."""
    return job_id


def artifact_folder(job_id: str, attempt: int) -> str:
    """Return the folder of the finished files of an attempt; each has its own, so that none writes into another's."""
    return f"{job_folder(job_id)}/artifacts/{attempt}"


def checkpoint_folder(job_id: str) -> str:
    """Return the folder of a job's checkpoints, one folder each."""
    return f"{job_folder(job_id)}/checkpoints"


def upload_mark(identifier: str) -> str:
    """Return the empty file that is there while files are stored of a job, or an upload, that is to be."""
    return f"{UPLOADS}/{identifier}"


def uploaded_file(upload_id: str, name: str) -> str:
    """Return the file of an upload, which a spec names by the same path; the upload's folder has its id."""
    return f"{upload_id}/{name}"


def upload_of(path: str) -> str | None:
    """Return the id of the upload whose file, or folder, has a path; None: it is no upload's."""
    match = re.fullmatch(r"(upl-[0-9a-z]{16})(/[^/]+)?", path)
    return match[1] if match else None


def check_folder(job_id: str) -> str:
    """Return the folder of a check of a spec that may be submitted as this job; it is there while it is checked."""
    return f"{job_folder(job_id)}/check"


def flow_folder(job_id: str) -> str:
    """Return the folder in which a job that scores rows has the files of the trained flow, copied for it alone."""
    return f"{job_folder(job_id)}/flow"


def piece_folder(job_id: str) -> str:
    """Return the folder in which a job that scores rows keeps the pieces that it has finished."""
    return f"{job_folder(job_id)}/pieces"


def order_file(job_id: str, attempt: int) -> str:
    """Return the file that tells an attempt what to do."""
    return f"{job_folder(job_id)}/orders/{attempt}.json"


def token_file(job_id: str, attempt: int) -> str:
    """Return the file with the token of an attempt, beside its order; it is there until the run has read it."""
    return f"{job_folder(job_id)}/orders/{attempt}.token"


def ray_folder(job_id: str) -> str:
    """Return the folder in which Ray Train keeps its own notes on a job."""
    return f"{job_folder(job_id)}/ray"
