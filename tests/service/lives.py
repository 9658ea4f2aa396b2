"""Jobs in the states that tests begin with."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from symadj.service import ingest
from symadj.service.contract.plan import Plan
from symadj.service.contract.records import BatchAnswer, OutcomeRecord, RecordBatch
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import JobState, ReasonCode
from symadj.service.identifiers import new_upload_id
from symadj.service.lifecycle import attempts, requests, uploads
from symadj.service.store import Database, events, jobs
from symadj.service.store.tables import Attempt, Job, Upload

TIME = "2026-01-01T00:00:00Z"
RETRY_SECONDS = 5.0


def toy_spec(**changes: object) -> JobSpec:
    """A spec of which any section may be changed without touching the others: it is not the usual training."""
    return JobSpec.model_validate({"data": {"kind": "toy", "name": "moons"}, "stop": {}, **changes})


def submit(database: Database, *, owner: str = "ada", **changes: object) -> str:
    with database.session() as session:
        return requests.submit(session, toy_spec(**changes), owner=owner)[0].id


def upload(database: Database, *, owner: str = "ada", **changes: Any) -> Upload:
    """Store an upload, not its file."""
    identifier = new_upload_id()
    # Any content of its own: the same would be the same upload.
    sha256 = hashlib.sha256(identifier.encode()).hexdigest()
    values = {"id": identifier, "name": "cells.csv", "format": "csv", "bytes": 1, "sha256": sha256} | changes
    with database.session() as session:
        row = Upload(owner=owner, created_at=datetime.now(UTC), **values)
        return uploads.keep(session, row, max_bytes=None)[0]


def claim(database: Database, job_id: str) -> attempts.Claim:
    with database.session() as session:
        claimed = attempts.claim(session, jobs.lock(session, job_id), actor="d", lease_seconds=60)
    assert claimed is not None
    return claimed


def running(database: Database, **changes: object) -> str:
    """Submit a job and let a rank of its first attempt report."""
    job_id = submit(database, **changes)
    claim(database, job_id)
    with database.session() as session:
        jobs.transition(session, jobs.lock(session, job_id), JobState.RUNNING, actor="rank-0", message="")
    return job_id


def ask(database: Database, job_id: str, wish: str, actor: str = "ada") -> None:
    """Say one of the ``lifecycle.requests``: cancel, pause, resume, ask_checkpoint."""
    with database.session() as session:
        getattr(requests, wish)(session, jobs.lock(session, job_id), actor=actor)


def end(database: Database, job_id: str, state: str, **fields: Any) -> None:
    """Let the run of a job say how it ended."""
    outcome = OutcomeRecord.model_validate({"time": TIME, "state": state, **fields})
    with database.session() as session:
        job = jobs.lock(session, job_id)
        attempts.end(session, job, outcome, actor="driver", retry_seconds=RETRY_SECONDS)


def lose(database: Database, job_id: str, reason: str = "worker_lost") -> None:
    """Let the run of a job be found dead."""
    with database.session() as session:
        job = jobs.lock(session, job_id)
        found = ReasonCode(reason)
        attempts.lose(session, job, found, "gone", actor="d", retry_seconds=RETRY_SECONDS)


def read(database: Database, job_id: str) -> Job:
    with database.read_session() as session:
        return jobs.get(session, job_id)


def attempts_of(database: Database, job_id: str) -> list[Attempt]:
    with database.read_session() as session:
        return list(jobs.attempts(session, job_id))


def event_names(database: Database, job_id: str) -> list[str]:
    with database.read_session() as session:
        return [event.name for event in events.after(session, job_id, after_seq=0, limit=1000)]


def send(
    database: Database, token: str, first_seq: int, *records: dict[str, Any], source: str = "rank-0"
) -> BatchAnswer:
    """Send records as a live source does."""
    batch = RecordBatch.model_validate({"source": source, "first_seq": first_seq, "records": list(records)})
    with database.session() as session:
        attempt = ingest.authenticate(session, token)
        return ingest.store_batch(session, attempt, batch, retry_seconds=RETRY_SECONDS)


def send_late(database: Database, job_id: str, attempt: int, *records: dict[str, Any], source: str = "rank-0") -> None:
    """Bring in what an attempt that is over left behind."""
    batch = RecordBatch.model_validate({"source": source, "first_seq": 1, "records": list(records)})
    with database.session() as session:
        row = jobs.attempt(session, job_id, attempt)
        ingest.store_batch(session, row, batch, retry_seconds=RETRY_SECONDS, live=False)


def step(number: int, loss: Any = None) -> dict[str, Any]:
    return {"kind": "step", "time": TIME, "step": number, "metrics": {"loss": number if loss is None else loss}}


def checkpoint(step: int, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    record = {"kind": "checkpoint", "time": TIME, "name": f"step-{step:09d}-attempt-{attempt}", "step": step}
    return record | {"bytes": 10, "sha256": "0" * 64, "cause": "steps", "validation_nll": None} | fields


def plan(**changes: Any) -> Plan:
    """Return the plan of a job: a worker holds 1000 bytes, and 10 more for every step of its solve."""
    parts = [
        {"phase": "backward", "block": 0, "fixed_bytes": 100.0, "held": [{"step_bytes": 10.0, "most_bytes": None}]}
    ]
    peak = {"steps": 10, "step_bytes": 200, "worker_bytes": 1100, "relative_time": 1.0, "limited_by": "a part"}
    gradient = {"gradient": {"kind": "backprop"}, "chosen": True, "exact": True, "parts": parts}
    gradient |= {"peaks": [peak | {"fits_budget": None, "fits_workers": None}]}
    sizes = {"columns": 2, "context_columns": 0, "rows_per_worker": 32, "blocks": 1, "parameters": 50}
    sizes |= {"idle_bytes": 500, "weights_bytes": 200, "optimizer_bytes": 200, "state_bytes": 8, "graph_bytes": 5}
    sizes |= {"memory_budget": None, "available_bytes": None, "largest_batch": None}
    return Plan.model_validate(sizes | {"gradients": [gradient]} | changes)
