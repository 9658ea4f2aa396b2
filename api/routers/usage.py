"""What the service takes of disk and rows."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from api.dependencies import SettingsOf, Store, require_overview
from api.problems import describe
from api.schemas import UsageRead
from service import usage

router = APIRouter(prefix="/usage", tags=["usage"])


@router.get("", dependencies=[Depends(require_overview)], responses=describe(403))
def read_usage(store: Store, settings: SettingsOf) -> UsageRead:
    """Read how many rows, bytes of the store and bytes of files there are, the largest jobs first."""
    with store.read_session() as session:
        return UsageRead.model_validate(usage.usage(session, store, settings))
