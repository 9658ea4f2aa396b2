"""What all answers have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Answer"]


class Answer(BaseModel):
    """Base: read from rows; non-finite numbers as the strings "NaN", "Infinity", "-Infinity"."""

    model_config = ConfigDict(from_attributes=True, ser_json_inf_nan="strings")
