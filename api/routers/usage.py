"""Disk space and rows that the service takes."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from symadj.api.dependencies import SettingsOf, Store, require_overview
from symadj.api.problems import describe
from symadj.api.schemas.service import UsageRead
from symadj.service import usage

router = APIRouter(prefix="/usage", tags=["usage"])


@router.get("", dependencies=[Depends(require_overview)], responses=describe(403))
def read_usage(store: Store, settings: SettingsOf) -> UsageRead:
    """Read how many rows, bytes of the store and bytes of files there are, the largest jobs first."""
    with store.read_session() as session:
        return UsageRead.model_validate(usage.usage(session, store, settings))
