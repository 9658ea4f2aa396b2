"""Where workers send their records."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from symadj.api.bodies import json_body
from symadj.api.dependencies import AttemptToken, Lane, SettingsOf, attempt_token
from symadj.api.problems import describe
from symadj.service import ingest
from symadj.service.contract.records import MAX_BODY_BYTES, MAX_BODY_VALUES, BatchAnswer, RecordBatch
from symadj.service.store import Database

router = APIRouter(prefix="/ingest", tags=["ingest"])


# Runs make batches many a second, and no key twice.
Batch = Annotated[
    RecordBatch,
    json_body(
        RecordBatch, after=attempt_token, most_bytes=MAX_BODY_BYTES, most_values=MAX_BODY_VALUES, unique_keys=False
    ),
]


@router.post("/batches", responses=describe(400, 403, 409, 413))
async def store_batch(batch: Batch, lane: Lane, settings: SettingsOf, token: AttemptToken) -> BatchAnswer:
    """Store numbered records, each once. 409 with `next_seq` where earlier ones are missing."""

    def store(database: Database) -> BatchAnswer:
        with database.session() as session:
            attempt = ingest.authenticate(session, token)
            return ingest.store_batch(session, attempt, batch, retry_seconds=settings.retry_seconds)

    return await lane.run(store)
