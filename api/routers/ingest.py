"""Where workers send their records."""

from __future__ import annotations

from fastapi import APIRouter

from api.dependencies import AttemptToken, Store
from api.problems import describe
from service import ingest
from service.records import Batch, BatchAnswer

router = APIRouter(prefix="/ingest", tags=["ingest"])


@router.post("/batches", responses=describe(400, 401, 409))
def store_batch(batch: Batch, store: Store, token: AttemptToken) -> BatchAnswer:
    """Store numbered records, each once. 409 with `next_seq` where earlier ones are missing."""
    with store.session() as session:
        return ingest.store_batch(session, ingest.authenticate(session, token), batch)
