"""Whatever is sent, the API answers as its own OpenAPI says, and never with an error of ours."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from symadj.api.app import create_app
from symadj.service import keys
from symadj.service.contract import layout
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.contract.storage import Storage
from symadj.service.lifecycle import attempts, requests, sweeps
from symadj.service.roles import Role
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs, uploads
from symadj.service.store.tables import Upload
from tests.api.conftest import NOW, checkpoint
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY

# A second of CPU, for which every process that collects this file would pay.
if TYPE_CHECKING:
    from schemathesis import Case
    from schemathesis.schemas import APIOperation

SWEEP = {"base": TOY, "parameters": {"seed": {"choices": [1, 2]}}, "trials": 2}
UPLOAD = {"id": "upl-01m81p4tjxp2pr8w", "name": "a.csv", "format": "csv", "bytes": 0, "sha256": "0" * 64}
SECRET = "a secret of the server's for tests"
EXAMPLES = settings(
    max_examples=3, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def running_job(database: Database, client: TestClient, storage: Storage) -> tuple[str, str]:
    """Return the id of a job that has something of everything, and the token of its attempt."""
    with database.session() as session:
        job, _ = requests.submit(session, JobSpec.model_validate(TOY), owner="local")
    with database.session() as session:
        claim = attempts.claim(session, jobs.lock(session, job.id), actor="d", lease_seconds=3600)
    assert claim is not None
    sizes = {"host_idle_bytes": 1, "host_peak_bytes": 2, "device_idle_bytes": None, "device_peak_bytes": None}
    records = [
        {"kind": "step", "time": NOW, "step": 1, "metrics": {"loss": "NaN"}},
        {"kind": "memory", "time": NOW, "step": 1, "rank": 0, "phase": "forward"} | sizes,
        {"kind": "artifact", "time": NOW, "name": "a", "media_type": "text/plain", "bytes": 0, "sha256": "0" * 64},
        {"kind": "event", "time": NOW, "name": "seen", "message": "a\0b", "data": {"words": "\0", "deep": [["NaN"]]}},
        {"kind": "log", "time": NOW, "stream": "stderr", "lines": ["a\0b"], "left_out_bytes": 9, "end": 3},
        checkpoint(1),
    ]
    batch = {"source": "rank-0", "first_seq": 1, "records": records}
    stored = client.post("/api/v1/ingest/batches", json=batch, headers=bearer(claim.token))
    assert stored.status_code == 200, stored.text
    storage.write(f"{layout.artifact_folder(job.id, 1)}/a", b"")
    return job.id, claim.token


def places(operation: APIOperation, **things: str) -> list[dict[str, str] | None]:
    """Return what to put into the path: things that are there, and None for what schemathesis makes up."""
    there = things | {"name": "loss" if "metrics" in operation.path else "a"}
    known = {name: value for name, value in there.items() if f"{{{name}}}" in operation.path}
    return [known, None] if known else [{}]


def check(case: Case, headers: dict[str, str] | None) -> None:
    """Send one request and compare the answer with the document."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    with contextlib.suppress(TypeError, ValueError):
        if 0 <= float((case.query or {}).get("wait", -1)) <= 30:
            case.query["wait"] = 0  # nobody waits here
    for slow in ("dry_run", "strict"):  # by a process with torch: tests/api/test_flow.py does it
        (case.query or {}).pop(slow, None)
    documented = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    case.validate_response(case.call(headers=headers), checks=[not_a_server_error, *documented])


def fuzz(strategy: SearchStrategy[Case], headers: dict[str, str]) -> None:
    """Check some examples of a strategy, the same ones every time."""

    @EXAMPLES
    @given(case=strategy)
    def send(case: Case) -> None:
        check(case, headers)

    send()


@pytest.mark.parametrize("backend", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_every_answer_is_documented_and_no_fault_of_ours(backend: str, store_url: str, tmp_path: Path) -> None:
    """SQLite without keys, PostgreSQL with an admin's."""
    import schemathesis
    from schemathesis import GenerationMode

    asks_for_keys = backend == "postgresql"
    configured = Settings(
        data=tmp_path,
        store_url=store_url,
        ray_address="http://127.0.0.1:9",
        auth="keys" if asks_for_keys else "none",
        key_secret=SECRET,
        allowed_hosts="testserver",  # what the clients call it
    )
    app = create_app(configured)
    with TestClient(app) as client, contextlib.closing(Database(store_url)) as database:
        job_id, token = running_job(database, client, configured.resolved_storage())
        upload = Upload(owner="local", created_at=datetime.fromisoformat(NOW), **UPLOAD)
        with database.session() as session:
            _, admin = keys.create(session, SECRET.encode(), name="root", role=Role.ADMIN)
            sweep_id, _ = sweeps.submit(session, SweepSpec.model_validate(SWEEP), owner="local")
            uploads.add(session, upload)
            other, _ = keys.create(session, SECRET.encode(), name="other", role=Role.VIEWER)
        for result in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
            operation = result.ok()
            if operation.path == "/api/v1/plans":
                # Whatever is right enough is planned by a process with torch: six requests took 9 s of CPU. `make
                # attack` sends them to a real server, and tests/api/test_flow.py has those that are right.
                continue
            headers = bearer(token if "ingest" in operation.path else admin)
            for place in places(operation, job_id=job_id, key_id=other.id, sweep_id=sweep_id, upload_id=upload.id):
                modes = [GenerationMode.POSITIVE]
                if operation.path.startswith("/api/") and place is not None:  # else there is nothing to get wrong
                    modes.append(GenerationMode.NEGATIVE)
                for mode in modes:
                    fuzz(operation.as_strategy(generation_mode=mode, path_parameters=place), headers)
        for address in ("/a%00", "/a%00/events", "/a/metrics/b%00", "/a/artifacts/b%00", "?name=%00", "?owner=%00"):
            answer = client.get(f"/api/v1/jobs{address}", headers=bearer(admin))
            assert_problem(answer, 422)
        assert client.get(f"/api/v1/jobs/{job_id}/events", headers=bearer(admin)).status_code == 200
