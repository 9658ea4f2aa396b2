"""What all answers have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Answer", "HasMore", "NextAfter", "NextAfterSeq", "OwnerName"]

HasMore = Annotated[bool, Field(description="Whether there is a next page.")]
NextAfter = Annotated[str | None, Field(description="Pass as `after` for the next page; null: there is none.")]
NextAfterSeq = Annotated[int, Field(description="Pass as `after_seq` for what comes later.")]
OwnerName = Annotated[
    str, Field(description="Name of the key that it was made with; `local` where no key is asked for.")
]


class Answer(BaseModel):
    """Base: read from rows; non-finite numbers as the strings "NaN", "Infinity", "-Infinity"."""

    model_config = ConfigDict(from_attributes=True, ser_json_inf_nan="strings")
