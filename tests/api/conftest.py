"""Jobs on a real server, seen from a worker that sends and a user who reads."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from symadj.service.contract.layout import CONFIG, WEIGHTS, artifact_folder
from symadj.service.contract.records import ArtifactRecord
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import ReasonCode
from symadj.service.lifecycle import attempts, requests
from symadj.service.store import Database, artifacts, jobs
from symadj.service.store.tables import Upload, Webhook
from tests.conftest import TOY, ApiServer

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# For what a browser does.
PATIENCE_SECONDS = 60
NOW = datetime(2026, 1, 1, tzinfo=UTC).isoformat()


@dataclass
class Run:
    """A job that the dispatcher has claimed, seen from its worker."""

    api: httpx.Client
    server: ApiServer
    database: Database
    job_id: str
    token: str
    sent: int = 0

    def send(self, *records: dict[str, Any], source: str = "rank-0", first_seq: int | None = None) -> httpx.Response:
        body = {"source": source, "first_seq": first_seq or self.sent + 1, "records": list(records)}
        headers = {"Authorization": f"Bearer {self.token}"}
        response = self.api.post("/api/v1/ingest/batches", json=body, headers=headers)
        if response.status_code == 200:
            self.sent = response.json()["next_seq"] - 1
        return response

    def write_checkpoint(self, step: int, **changes: Any) -> None:
        """Leave the files of a checkpoint, and say so."""
        record = checkpoint(step, **changes)
        folder = self.server.data / "jobs" / self.job_id / "checkpoints" / record["name"]
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        assert self.send(record).status_code == 200

    def store(self, name: str, content: bytes, media_type: str = "application/octet-stream") -> None:
        """Leave a finished file of the first attempt, and say so."""
        file = self.server.data / "jobs" / artifact_folder(self.job_id, 1) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        record = ArtifactRecord(
            name=name, media_type=media_type, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        )
        sent = self.send(record.model_dump(mode="json"))
        assert sent.status_code == 200, sent.text

    def end(self, state: str, **fields: Any) -> None:
        """Say how the attempt ended, as its driver does."""
        record = {"kind": "outcome", "time": NOW, "state": state} | fields
        response = self.send(record, source="driver", first_seq=1)
        assert response.status_code == 200, response.text

    def lose(self, reason: ReasonCode, message: str) -> None:
        """Find the attempt lost, as the dispatcher does."""
        with self.database.session() as session:
            job = jobs.lock(session, self.job_id)
            attempts.lose(session, job, reason, message, actor="dispatcher", retry_seconds=5.0)

    def claim_again(self) -> None:
        """Claim the job for its next attempt, as the dispatcher does when it is time."""
        with self.database.session() as session:
            claim = attempts.claim(session, jobs.lock(session, self.job_id), actor="dispatcher")
        assert claim is not None
        self.token, self.sent = claim.token, 0

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.api.get(f"/api/v1/jobs/{self.job_id}{path}", **arguments)

    def post(self, path: str) -> httpx.Response:
        return self.api.post(f"/api/v1/jobs/{self.job_id}{path}")


def child(server: ApiServer) -> psutil.Process:
    """Return the process that computes with flows."""
    (found,) = psutil.Process(server.process.pid).children()
    return found


def checkpoint(step: int, **changes: Any) -> dict[str, Any]:
    """Return the record of a checkpoint of the first attempt."""
    record = {"kind": "checkpoint", "time": NOW, "name": f"step-{step:09d}-attempt-1", "step": step, "bytes": 1000}
    return record | {"sha256": "0" * 64, "cause": "steps", "validation_nll": None} | changes


@pytest.fixture
def new_run(api_server: ApiServer, api: httpx.Client) -> Iterator[Callable[..., Run]]:
    """Submit and claim jobs; top-level fields of the spec may be changed."""
    with runs_of(api_server, api) as make:
        yield make


@contextmanager
def runs_of(server: ApiServer, api: httpx.Client) -> Iterator[Callable[..., Run]]:
    """Submit and claim jobs of a server, as ``new_run`` does; or claim one that was submitted."""
    database = Database(f"sqlite:///{server.data / 'symadj.sqlite'}")

    def make(job_id: str | None = None, *, owner: str = "local", **changes: Any) -> Run:
        if job_id is None:
            spec = JobSpec.model_validate(TOY | changes)
            with database.session() as session:
                job_id = requests.submit(session, spec, owner=owner)[0].id
        with database.session() as session:
            claim = attempts.claim(session, jobs.lock(session, job_id), actor="d", lease_seconds=60)
        assert claim is not None
        return Run(api, server, database, job_id, claim.token)

    yield make
    database.close()


@pytest.fixture
def run(new_run: Callable[..., Run]) -> Run:
    """One such job."""
    return new_run()


def leave_a_webhook(run: Run) -> None:
    """Store the webhook `none`."""
    values = {"owner": "local", "url": "http://127.0.0.1:1/", "secret": "", "events": ["failed"], "labels": {}}
    with run.database.session() as session:
        session.merge(Webhook(id="none", created_at=datetime.now(UTC), all_owners=False, failures=0, **values))


def leave_an_upload(run: Run) -> None:
    """Store the upload `none`, without its file."""
    values = {"owner": "local", "name": "a.csv", "format": "csv", "bytes": 0, "sha256": "0" * 64}
    with run.database.session() as session:
        session.merge(Upload(id="none", created_at=datetime.now(UTC), **values))


def trained_job(client: TestClient, files: Path) -> str:
    """Submit a job to an app in this process, and leave the files of a flow in its name; return its id."""
    made = client.post("/api/v1/jobs", json=TOY)
    assert made.status_code == 201, made.text
    job_id: str = made.json()["id"]
    state = cast(FastAPI, client.app).state
    storage = state.settings.resolved_storage()
    with state.database.session() as session:
        job = jobs.get(session, job_id)
        for name in (CONFIG, WEIGHTS):
            content = (files / name).read_bytes()
            storage.write(f"{artifact_folder(job_id, 1)}/{name}", content)
            sha256 = hashlib.sha256(content).hexdigest()
            record = ArtifactRecord(name=name, media_type="a/b", bytes=len(content), sha256=sha256)
            artifacts.add(session, job, 1, record)
    return job_id


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser for which every name ends at this machine, as a name does that was rebound."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no chromium with its chromedriver here (Debian: apt install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless=new", "no-proxy-server", "host-resolver-rules=MAP * 127.0.0.1"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    if os.geteuid() == 0:  # chromium's sandbox needs another user
        options.add_argument("--no-sandbox")
    browser = Chrome(options, Service(DRIVER))
    browser.set_script_timeout(PATIENCE_SECONDS)
    yield browser
    browser.quit()
