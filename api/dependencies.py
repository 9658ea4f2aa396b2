"""What endpoints are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Unauthorized, UnsupportedMediaType
from service.settings import Settings
from service.store import Database

__all__ = ["AfterSeq", "AttemptToken", "JobId", "Limit", "Owner", "SettingsOf", "Store", "require_json"]


def _store(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _owner() -> str:
    """Return who asks. One user on one machine for now: API keys will name others here."""
    return "local"


def require_json(request: Request) -> None:
    """Refuse a body that does not say that it is JSON; `curl -d` says that it is a form."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() not in {"application/json", "text/json"}:
        raise UnsupportedMediaType(
            f"Content-Type is {given or 'missing'}: send JSON with the header `Content-Type: application/json`"
        )


def _attempt_token(
    credentials: Annotated[
        HTTPAuthorizationCredentials | None,
        Depends(HTTPBearer(scheme_name="attempt", description="An attempt's own token.", auto_error=False)),
    ],
) -> str:
    if credentials is None:
        raise Unauthorized("send the attempt's token: `Authorization: Bearer ...`")
    return credentials.credentials


Store = Annotated[Database, Depends(_store)]
SettingsOf = Annotated[Settings, Depends(_settings)]
Owner = Annotated[str, Depends(_owner)]
AttemptToken = Annotated[str, Depends(_attempt_token)]
JobId = Annotated[str, Path(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items of one answer, at most.")]
AfterSeq = Annotated[int, Query(ge=0, lt=2**63, description="Only what has a higher sequence number.")]
