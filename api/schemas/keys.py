"""API keys: requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from symadj.api.schemas.answer import Answer
from symadj.service.roles import NAME, Role

__all__ = ["Identity", "KeyCreated", "KeyList", "KeyRead", "NewKey"]


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "ada", "role": "submitter", "expires_in_days": 90}]}
    )

    name: Annotated[str, Field(pattern=NAME, description="Owner of the jobs that are submitted with it.")]
    role: Role = Field(description="What the key allows.")
    expires_in_days: int | None = Field(None, strict=True, ge=1, le=3650, description="null: it does not expire.")


class KeyRead(Answer):
    """A key, without its secret part."""

    id: str = Field(description="The first 8 characters after `symadj_`.")
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To within an hour.")


class KeyCreated(KeyRead):
    """A new key."""

    key: str = Field(description="Send it as `Authorization: Bearer ...`. It is shown this once.")


class Identity(Answer):
    """Who asks."""

    name: str = Field(description="Owner of the jobs that are submitted with the key.")
    role: Role


class KeyList(Answer):
    """All keys, the newest first."""

    items: list[KeyRead]
