"""The audit log: who changed what, and who was refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from symadj.api.app import create_app
from symadj.api.audit import STRANGERS_A_MINUTE
from symadj.service import keys
from symadj.service.audit import AuditLog
from symadj.service.roles import Role
from symadj.service.settings import Settings
from symadj.service.store import Database, audit
from symadj.service.store.tables import AuditEntry
from tests.api.routes import Endpoint, endpoints
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY

SECRET = "a secret of the server's for tests"
V1 = "/api/v1"
# With a key, and not only to be read: a table that is sent to be computed with has no owner.
CHANGES = [
    item
    for item in endpoints()
    if item.method not in {"GET", "OPTIONS"}
    and item.path.startswith(V1)
    and not any(part in item.path for part in ("/ingest/", "/flow/", "/plans"))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def client(data: Path) -> Iterator[TestClient]:
    """An API that asks for keys, in this process."""
    settings = Settings(data=data, auth="keys", key_secret=SECRET)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def key(client: TestClient, name: str, role: Role) -> dict[str, str]:
    database: Database = client.app.state.database  # type: ignore[attr-defined]
    with database.session() as session:
        _, made = keys.create(session, SECRET.encode(), name=name, role=role)
    return {"Authorization": f"Bearer {made}"}


@pytest.fixture(scope="module")
def admin(client: TestClient) -> dict[str, str]:
    return key(client, "root", Role.ADMIN)


Entries = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def entries(client: TestClient, admin: dict[str, str]) -> Entries:
    """Read the log from when the test began, with filters."""
    began = datetime.now(UTC).isoformat()

    def read(**filters: Any) -> list[dict[str, Any]]:
        answer = client.get(f"{V1}/audit", headers=admin, params={"since": began} | filters)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    return read


def test_a_change_is_in_the_log_with_who_what_outcome_and_the_id_of_its_answer(
    client: TestClient, admin: dict[str, str], entries: Entries
) -> None:
    ada = key(client, "ada", Role.SUBMITTER)
    made = client.post(f"{V1}/jobs", json=TOY, headers=ada)
    job_id = made.json()["id"]
    cancelled = client.post(f"{V1}/jobs/{job_id}/cancel", headers=admin | {"X-Request-ID": "from-a-proxy"})
    client.get(f"{V1}/jobs/{job_id}", headers=ada)
    newest, first = entries()
    named = ("who", "role", "method", "route", "target", "made", "status", "request_id")
    assert [newest[name] for name in named] == [
        *("root", "admin", "POST", f"{V1}/jobs/{{job_id}}/cancel", job_id, None, 202, "from-a-proxy"),
    ]
    assert cancelled.headers["x-request-id"] == "from-a-proxy"
    assert [first[name] for name in named] == [
        *("ada", "submitter", "POST", f"{V1}/jobs", None, job_id, 201, made.headers["x-request-id"]),
    ]
    assert first["key_id"] == ada["Authorization"].removeprefix("Bearer symadj_")[:8]


@pytest.mark.parametrize("endpoint", CHANGES, ids=str)
def test_every_refused_change_is_in_the_log_and_no_key(
    client: TestClient, admin: dict[str, str], endpoint: Endpoint, entries: Entries
) -> None:
    viewer = key(client, "eve", Role.VIEWER)
    secret = viewer["Authorization"].removeprefix("Bearer symadj_")[8:]
    assert client.request(endpoint.method, endpoint.at("job-none"), headers=viewer).status_code == 403
    wrong = {"Authorization": f"Bearer symadj_{'a' * 47}"}
    assert client.request(endpoint.method, endpoint.at("job-none"), headers=wrong).status_code == 401
    stranger, refused = entries()
    assert (refused["who"], refused["role"], refused["status"]) == ("eve", "viewer", 403)
    assert (stranger["who"], stranger["key_id"], stranger["status"]) == (None, None, 401)
    assert refused["route"] == stranger["route"] == endpoint.path
    assert secret not in str(refused)
    assert "a" * 20 not in str(stranger)


@pytest.mark.parametrize("endpoint", CHANGES, ids=str)
def test_every_change_of_an_admin_is_in_the_log_whatever_its_outcome(
    client: TestClient, admin: dict[str, str], endpoint: Endpoint, entries: Entries
) -> None:
    answer = client.request(endpoint.method, endpoint.at("job-none"), headers=admin)
    (entry,) = entries()
    assert (entry["who"], entry["route"], entry["status"]) == ("root", endpoint.path, answer.status_code)


def test_the_log_is_for_admins_alone(client: TestClient) -> None:
    for role in (Role.SUBMITTER, Role.VIEWER):
        assert_problem(client.get(f"{V1}/audit", headers=key(client, "x", role)), 403)


def test_entries_are_found_by_who_route_id_status_and_time_and_in_pages(
    client: TestClient, admin: dict[str, str], entries: Entries
) -> None:
    ada, bob = key(client, "ada", Role.SUBMITTER), key(client, "bob", Role.SUBMITTER)
    jobs = [client.post(f"{V1}/jobs", json=TOY, headers=who).json()["id"] for who in (ada, bob, ada)]
    client.post(f"{V1}/jobs/{jobs[0]}/cancel", headers=ada)
    assert [item["made"] for item in entries(who="ada")] == [None, jobs[2], jobs[0]]
    assert [item["who"] for item in entries(route=f"{V1}/jobs")] == ["ada", "bob", "ada"]
    about = entries(id=jobs[0])
    assert [item["status"] for item in about] == [202, 201]
    assert entries(id=about[0]["request_id"]) == about[:1]
    assert entries(status=202) == about[:1]
    assert entries(since=about[0]["time"]) == about[:1]
    assert len(entries(until=about[0]["time"])) == 3
    first = client.get(f"{V1}/audit", headers=admin, params={"limit": 3}).json()
    assert first["has_more"]
    assert first["items"] + entries(limit=1, after=first["next_after"]) == entries()


def test_a_store_that_takes_no_writes_holds_up_no_answer_and_loses_no_entry(
    client: TestClient, admin: dict[str, str], data: Path, entries: Entries
) -> None:
    viewer = key(client, "eve", Role.VIEWER)
    client.get(f"{V1}/jobs", headers=viewer)  # its first use is stored
    other = Database(f"sqlite:///{data / 'symadj.sqlite'}")
    with other.session():  # the lock of all writers
        refused = client.post(f"{V1}/jobs", json=TOY, headers=viewer)
        assert refused.status_code == 403
    other.close()
    assert entries(id=refused.headers["x-request-id"])[0]["who"] == "eve"


def test_strangers_cannot_fill_the_log_and_what_is_left_out_is_counted(
    client: TestClient, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch, entries: Entries
) -> None:
    now = time.monotonic() + 1000
    monkeypatch.setattr("symadj.api.audit.time.monotonic", lambda: now)
    for _ in range(STRANGERS_A_MINUTE + 5):
        client.get(f"{V1}/jobs")
    assert len(entries()) == STRANGERS_A_MINUTE
    now += 60
    client.get(f"{V1}/jobs")
    assert entries()[0]["left_out"] == 5


def test_entries_are_removed_when_they_are_too_old(new_database_url: str) -> None:
    store = Database(new_database_url)
    store.migrate()
    now = datetime.now(UTC)
    log = AuditLog(new_database_url, keep_days=7)
    for number, days in enumerate((0, 6, 8, 400)):
        values = {"method": "POST", "route": "/", "status": 200, "request_id": "r", "left_out": 0}
        log.note(AuditEntry(id=f"aud-{number}", time=now - timedelta(days=days), **values))
    log.start()
    log.close()
    with store.read_session() as session:
        assert [entry.id for entry in audit.page(session, limit=9).items] == ["aud-0", "aud-1"]
        assert session.scalar(sa.select(sa.func.count()).select_from(AuditEntry)) == 2
    store.close()


def test_a_job_says_who_cancelled_it(client: TestClient, admin: dict[str, str]) -> None:
    ada = key(client, "ada", Role.SUBMITTER)
    job_id = client.post(f"{V1}/jobs", json=TOY, headers=ada).json()["id"]
    assert client.get(f"{V1}/jobs/{job_id}", headers=ada).json()["cancelled_by"] is None
    client.post(f"{V1}/jobs/{job_id}/cancel", headers=admin)
    assert client.get(f"{V1}/jobs/{job_id}", headers=ada).json()["cancelled_by"] == "root"
    assert client.get(f"{V1}/jobs", headers=ada).json()["items"][0]["cancelled_by"] == "root"
