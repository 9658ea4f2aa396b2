"""The files that a run leaves in the job's folder of the artifact storage."""

from __future__ import annotations

import hashlib
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from service.records import ArtifactRecord, RunOrder

__all__ = ["ArtifactFolder"]


class ArtifactFolder:
    """``{storage}/{job_id}/artifacts/{attempt}``, where each file appears whole or not at all.

    An attempt that was given up, and does not know it yet, can't write over the files of the next one.
    """

    def __init__(self, order: RunOrder) -> None:
        self.path = Path(order.storage, order.job_id, "artifacts", str(order.attempt))

    def write(self, name: str, media_type: str, content: bytes) -> ArtifactRecord:
        """Write ``content`` under ``name``, replacing an earlier file of that name, and return its record.

        Raises:
            OSError: the storage is full or cannot be written; nothing is left behind.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".", suffix=".tmp")
        try:
            with open(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp's files are the owner's alone; the API may run as another user of the same group.
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path / name)
        except BaseException:
            os.unlink(temporary)
            raise
        return ArtifactRecord(
            time=datetime.now(UTC),
            name=name,
            media_type=media_type,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
