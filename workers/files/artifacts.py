"""The files that a run leaves in the job's folder of the artifact storage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import IO

from symadj.service.contract.layout import artifact_folder
from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import ArtifactRecord
from symadj.service.contract.storage import open_storage

__all__ = ["ArtifactFolder"]


class ArtifactFolder:
    """``{storage}/{job_id}/artifacts/{attempt}``, where each file appears whole or not at all.

    An attempt that was given up, and does not know it yet, can't write over the files of the next one.
    """

    def __init__(self, order: RunOrder) -> None:
        self.storage = open_storage(order.storage)
        self.path = artifact_folder(order.job_id, order.attempt)

    def write(self, name: str, media_type: str, content: bytes) -> ArtifactRecord:
        """Write ``content`` under ``name``, replacing an earlier file of that name, and return its record.

        Raises:
            OSError: the storage is full, cannot be written or does not answer; nothing is left behind.
        """
        self.storage.write(f"{self.path}/{name}", content)
        sha256 = hashlib.sha256(content).hexdigest()
        return ArtifactRecord(name=name, media_type=media_type, bytes=len(content), sha256=sha256)

    def stream(self, name: str, media_type: str, write: Callable[[IO[bytes]], None]) -> ArtifactRecord:
        """As ``write``, of a file that need not fit into memory: ``write`` writes it.

        Raises:
            OSError: as ``write``, and what ``write`` raises; nothing is left behind.
        """
        with self.storage.writing(f"{self.path}/{name}") as file:
            write(file)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return ArtifactRecord(name=name, media_type=media_type, bytes=size, sha256=sha256)
