"""API keys: requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from symadj.api.schemas.answer import Answer
from symadj.service.roles import NAME, Role

__all__ = ["Identity", "KeyCreated", "KeyList", "KeyRead", "NewKey"]

KeyName = Annotated[str, Field(description="Owner of the jobs that are submitted with the key.")]
KeyRole = Annotated[Role, Field(description="What the key allows.")]


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "ada", "role": "submitter", "expires_in_days": 90}]}
    )

    name: Annotated[KeyName, Field(pattern=NAME)]
    role: KeyRole
    expires_in_days: int | None = Field(None, strict=True, ge=1, le=3650, description="null: it does not expire.")


class KeyRead(Answer):
    """A key, without its secret part."""

    id: str = Field(description="The first 8 characters after `symadj_`.")
    name: KeyName
    role: KeyRole
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="From when on it is refused; null: it does not expire.")
    revoked_at: datetime | None = Field(description="When it was revoked; null: it was not.")
    last_used_at: datetime | None = Field(description="When a request came with it, to within an hour; null: none has.")


class KeyCreated(KeyRead):
    """A new key."""

    key: str = Field(description="Send it as `Authorization: Bearer ...`. It is shown this once.")


class Identity(Answer):
    """Who asks."""

    name: KeyName
    role: KeyRole


class KeyList(Answer):
    """All keys, the newest first."""

    items: list[KeyRead] = Field(description="Revoked and expired ones, too.")
