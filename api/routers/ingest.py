"""Where workers send their records."""

from __future__ import annotations

from fastapi import APIRouter

from symadj.api.dependencies import AttemptToken, Lane, SettingsOf
from symadj.api.problems import describe
from symadj.service import ingest
from symadj.service.contract.records import BatchAnswer, RecordBatch
from symadj.service.store import Database

router = APIRouter(prefix="/ingest", tags=["ingest"])


@router.post("/batches", responses=describe(400, 403, 409))
async def store_batch(batch: RecordBatch, lane: Lane, settings: SettingsOf, token: AttemptToken) -> BatchAnswer:
    """Store numbered records, each once. 409 with `next_seq` where earlier ones are missing."""

    def store(database: Database) -> BatchAnswer:
        with database.session() as session:
            attempt = ingest.authenticate(session, token)
            return ingest.store_batch(session, attempt, batch, retry_seconds=settings.retry_seconds)

    return await lane.run(store)
