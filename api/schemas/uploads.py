"""Answers about uploads."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import Field

from symadj.api.schemas.answer import Answer, HasMore, NextAfter, OwnerName
from symadj.service.contract.layout import uploaded_file
from symadj.service.contract.spec.data import FormatName

if TYPE_CHECKING:  # the client reads these answers and needs no database for it
    from symadj.service.store.tables import Upload

__all__ = ["UploadList", "UploadRead"]


class UploadRead(Answer):
    """A file that was sent to be trained on."""

    id: str = Field(description="`upl-...`.")
    owner: OwnerName
    name: str = Field(description="Of the file, as it was sent first.")
    format: FormatName = Field(description="According to the name's ending.")
    path: str = Field(description="By which a spec names it: `data.path`, `data.test_path`.")
    bytes: int = Field(description="Of the file.")
    sha256: str = Field(description="Of its content.")
    created_at: datetime = Field(description="When it was sent first.")

    @classmethod
    def of(cls, upload: Upload) -> UploadRead:
        """Return the answer about a row."""
        values = {name: getattr(upload, name) for name in cls.model_fields if name != "path"}
        return cls(path=uploaded_file(upload.id, upload.name), **values)


class UploadList(Answer):
    """A page of uploads, newest first."""

    items: list[UploadRead] = Field(description="The uploads of this page.")
    has_more: HasMore
    next_after: NextAfter
