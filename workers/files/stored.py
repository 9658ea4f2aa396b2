"""Files that a run has stored, read for what they must be."""

from __future__ import annotations

import hashlib

from symadj.service.contract.flow_question import StoredFile
from symadj.service.contract.storage import Storage
from symadj_core.errors import LoadError

__all__ = ["read_stored"]


def read_stored(storage: Storage, file: StoredFile) -> bytes:
    """Return what a file holds.

    Raises:
        FileNotFoundError: it is gone.
        LoadError: it is not what was stored.
        OSError: the storage can't be read.
    """
    content = storage.read(file.path)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise LoadError(f"{storage.name(file.path)} is not what the run stored: its SHA-256 is another")
    return content
