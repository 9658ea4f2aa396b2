"""Where workers send their records."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import AttemptToken, SettingsOf, Store
from api.problems import describe
from service import ingest
from service.records import Batch, BatchAnswer

router = APIRouter(prefix="/ingest", tags=["ingest"])


@router.post("/batches", responses=describe(400, 409))
def store_batch(batch: Batch, store: Store, settings: SettingsOf, token: AttemptToken) -> BatchAnswer:
    """Store numbered records, each once. 409 with `next_seq` where earlier ones are missing."""
    with store.session() as session:
        attempt = ingest.authenticate(session, token)
        return ingest.store_batch(session, attempt, batch, retry_seconds=settings.retry_seconds)
