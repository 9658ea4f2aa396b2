"""Disk space and rows that the service takes."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from symadj.api.dependencies import Costly, SettingsOf, Store, require_overview
from symadj.api.problems import describe
from symadj.api.schemas.service import UsageRead
from symadj.service import usage

router = APIRouter(prefix="/usage", tags=["usage"])


@router.get("", response_model=UsageRead, dependencies=[Depends(require_overview)], responses=describe(403))
async def read_usage(store: Store, settings: SettingsOf, costly: Costly) -> Response:
    """Read how many rows, bytes of the store and bytes of files there are, the largest jobs first."""

    def read() -> bytes:
        with store.read_session() as session:
            return UsageRead.model_validate(usage.usage(session, store, settings)).model_dump_json().encode()

    return Response(await costly.read("usage", read, keep=False), media_type="application/json")
