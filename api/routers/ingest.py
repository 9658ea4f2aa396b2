"""Where workers send their records."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.dependencies import AttemptToken, SettingsOf, Store
from symadj.api.problems import describe
from symadj.service import ingest
from symadj.service.contract.records import BatchAnswer, RecordBatch

router = APIRouter(prefix="/ingest", tags=["ingest"])


@router.post("/batches", responses=describe(400, 403, 409))
def store_batch(batch: RecordBatch, store: Store, settings: SettingsOf, token: AttemptToken) -> BatchAnswer:
    """Store numbered records, each once. 409 with `next_seq` where earlier ones are missing."""
    with store.session() as session:
        attempt = ingest.authenticate(session, token)
        return ingest.store_batch(session, attempt, batch, retry_seconds=settings.retry_seconds)
