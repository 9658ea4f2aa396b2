"""A file that a user has sent, as whoever reads it is told of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["UploadedFile"]


class UploadedFile(BaseModel):
    """A file of the storage that a spec names, and what it must be.

    Attributes:
        path: as the spec has it; from the root of the storage it is the same.
        storage: the folder or the URL that has it.
        bytes: of the file.
        sha256: of its content.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    storage: str
    bytes: int
    sha256: str
