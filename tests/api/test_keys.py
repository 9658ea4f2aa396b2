"""An API that asks for keys: who may do what, and what nobody is told."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from symadj.api.app import create_app
from symadj.api.client import Client
from symadj.api.listening import ExposedError, check_exposure
from symadj.service.roles import Role
from symadj.service.settings import Settings
from tests.api.routes import endpoints
from tests.api.test_jobs import TOY, assert_problem
from tests.command import run_symadj
from tests.conftest import running_api

SECRET = "a secret of the server's for tests"
V1 = "/api/v1"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def symadj(data: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_symadj(*words, environment={"SYMADJ_DATA": str(data), "SYMADJ_KEY_SECRET": SECRET} | environment)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A service that asks for keys."""
    return Settings(data=tmp_path_factory.mktemp("keys"), auth="keys", key_secret=SECRET)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    """Its API, in this process; nothing is sent but what a test sends."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def admin(client: TestClient, settings: Settings) -> dict[str, str]:
    """The headers of the first admin."""
    file = settings.data / "admin"
    made = symadj(settings.data, "keys", "bootstrap", "--file", str(file))
    assert made.returncode == 0, made.stderr
    assert file.read_text().strip() not in made.stdout + made.stderr
    again = symadj(settings.data, "keys", "bootstrap", "--file", str(file))
    assert "nothing was done" in again.stdout
    return bearer(file.read_text().strip())


def make(client: TestClient, admin: dict[str, str], name: str, role: Role) -> dict[str, str]:
    created = client.post(f"{V1}/keys", json={"name": name, "role": role}, headers=admin)
    assert created.status_code == 201, created.text
    assert created.headers["cache-control"] == "no-store"
    return bearer(created.json()["key"])


@pytest.fixture
def ada(client: TestClient, admin: dict[str, str]) -> dict[str, str]:
    """A submitter."""
    return make(client, admin, "ada", Role.SUBMITTER)


@pytest.fixture
def viewer(client: TestClient, admin: dict[str, str]) -> dict[str, str]:
    """A viewer."""
    return make(client, admin, "eve", Role.VIEWER)


def submitted(client: TestClient, headers: dict[str, str]) -> str:
    response = client.post(f"{V1}/jobs", json=TOY, headers=headers)
    assert response.status_code == 201, response.text
    job_id: str = response.json()["id"]
    return job_id


def listed(client: TestClient, headers: dict[str, str], **filters: Any) -> set[str]:
    answer = client.get(f"{V1}/jobs", headers=headers, params={"limit": 1000, **filters})
    return {job["id"] for job in answer.json()["items"]}


def test_without_a_key_no_operation_of_the_api_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        for method in operations:
            if path.startswith(V1):
                things = dict.fromkeys(re.findall(r"\{(\w+)\}", path), "none")
                place = path.format(**things | {"job_id": "job-none", "name": "loss", "key_id": "aaaaaaaa"})
                answer = client.request(method, place, json={"no": "spec"})
                if "ingest" not in path:
                    problem = assert_problem(answer, 401)
                    assert "SYMADJ_API_KEY" in problem["detail"], path
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert operations[method]["security"] == [{"key": []}]
                    asked += 1
    assert asked > 20


def test_a_submitter_sees_and_changes_their_own_sweeps_and_no_others(
    client: TestClient, admin: dict[str, str], ada: dict[str, str], viewer: dict[str, str]
) -> None:
    bob = make(client, admin, "bob", Role.SUBMITTER)
    spec = {"base": TOY, "parameters": {"seed": {"choices": [1]}}, "trials": 1}
    made = client.post(f"{V1}/sweeps", json=spec, headers=bob)
    assert (made.status_code, made.json()["owner"]) == (201, "bob")
    theirs = made.json()["id"]
    seen = {
        name: {item["id"] for item in client.get(f"{V1}/sweeps", headers=who).json()["items"]}
        for name, who in (("ada", ada), ("bob", bob), ("admin", admin), ("viewer", viewer))
    }
    assert {name: theirs in ids for name, ids in seen.items()} == {
        "ada": False,
        "bob": True,
        "admin": True,
        "viewer": True,
    }
    assert client.get(f"{V1}/sweeps", headers=ada, params={"owner": "bob"}).json()["items"] == []
    of_a_sweep = [item for item in endpoints() if "{sweep_id}" in item.path]
    assert {item.method for item in of_a_sweep} == {"GET", "POST", "PATCH", "DELETE"}
    for item in of_a_sweep:
        answer = client.request(item.method, item.at("", theirs), headers=ada)
        assert assert_problem(answer, 404)["detail"] == f"there is no sweep {theirs!r}", item
        if item.method != "GET":
            assert_problem(client.request(item.method, item.at("", theirs), headers=viewer), 403)
    assert_problem(client.post(f"{V1}/sweeps", json=spec, headers=viewer), 403)
    assert client.get(f"{V1}/sweeps/{theirs}", headers=bob).json()["state"] == "running"


def test_health_readiness_figures_and_documentation_need_no_key(client: TestClient) -> None:
    for path in ("/healthz", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.get("/readyz").json()["store"] == "ok"


def test_a_submitter_sees_and_changes_their_own_jobs_and_no_others(
    client: TestClient, admin: dict[str, str], ada: dict[str, str]
) -> None:
    bob = make(client, admin, "bob", Role.SUBMITTER)
    mine, theirs = submitted(client, ada), submitted(client, bob)
    assert client.get(f"{V1}/jobs/{mine}", headers=ada).json()["owner"] == "ada"
    seen = listed(client, ada)
    assert mine in seen
    assert theirs not in seen
    assert listed(client, ada, owner="bob") == set()
    not_there = assert_problem(client.get(f"{V1}/jobs/job-none", headers=ada), 404)["detail"]
    of_a_job = [item for item in endpoints() if "{job_id}" in item.path and "/flow/" not in item.path]
    assert {item.method for item in of_a_job} == {"GET", "POST", "PATCH", "DELETE"}
    for item in of_a_job:
        answer = client.request(item.method, item.at(theirs), headers=ada)
        assert assert_problem(answer, 404)["detail"] == not_there.replace("job-none", theirs), item
    waiting = {name: client.get(f"{V1}/cluster", headers=who).json() for name, who in (("ada", ada), ("all", admin))}
    assert 0 < waiting["ada"]["queued"] < waiting["all"]["queued"]
    assert {job["owner"] for job in waiting["ada"]["waiting"]} == {"ada"}
    assert {"ada", "bob"} <= {job["owner"] for job in waiting["all"]["waiting"]}
    continued = client.post(f"{V1}/jobs", json=TOY | {"parent": {"job": theirs, "step": None}}, headers=ada)
    assert assert_problem(continued, 422)["errors"][0]["pointer"] == "/parent/job"
    assert client.get(f"{V1}/jobs/{theirs}", headers=bob).json()["state"] == "queued"
    assert client.post(f"{V1}/jobs/{mine}/cancel", headers=ada).json()["state"] == "cancelled"
    events = client.get(f"{V1}/jobs/{mine}/events", headers=ada).json()["items"]
    assert {event["actor"] for event in events} == {"ada"}


def test_a_viewer_reads_all_and_changes_nothing(
    client: TestClient, ada: dict[str, str], viewer: dict[str, str]
) -> None:
    job_id = submitted(client, ada)
    assert job_id in listed(client, viewer, owner="ada")
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/metrics", "/usage", "/datasets"):
        assert client.get(f"{V1}{path}", headers=viewer).status_code == 200
    changes = [item for item in endpoints() if item.method != "GET" and "{job_id}" in item.path]
    assert len(changes) > 5
    for change in changes:
        if "/flow/" not in change.path:  # a table is sent to be read
            assert_problem(client.request(change.method, change.at(job_id), headers=viewer), 403)
    assert "only reads" in assert_problem(client.post(f"{V1}/jobs", json=TOY, headers=viewer), 403)["detail"]
    assert client.get(f"{V1}/jobs/{job_id}", headers=viewer).json()["state"] == "queued"


def test_an_admin_sees_and_changes_everything(client: TestClient, admin: dict[str, str], ada: dict[str, str]) -> None:
    job_id = submitted(client, ada)
    assert job_id in listed(client, admin)
    assert client.post(f"{V1}/jobs/{job_id}/cancel", headers=admin).json()["owner"] == "ada"
    assert client.get(f"{V1}/jobs/{job_id}/events", headers=admin).json()["items"][-1]["actor"] == "admin"
    assert client.delete(f"{V1}/jobs/{job_id}", headers=admin).status_code == 204


@pytest.mark.parametrize("role", ["ada", "viewer"])
def test_keys_are_for_admins_alone(client: TestClient, role: str, request: pytest.FixtureRequest) -> None:
    headers = request.getfixturevalue(role)
    assert_problem(client.get(f"{V1}/keys", headers=headers), 403)
    assert_problem(client.post(f"{V1}/keys", json={"name": "x", "role": "admin"}, headers=headers), 403)
    assert_problem(client.post(f"{V1}/keys/aaaaaaaa/revoke", headers=headers), 403)
    usage = client.get(f"{V1}/usage", headers=headers)
    assert usage.status_code == (403 if role == "ada" else 200)


def test_an_idempotency_key_is_its_owners(client: TestClient, admin: dict[str, str], ada: dict[str, str]) -> None:
    again = make(client, admin, "ada", Role.SUBMITTER)
    bob = make(client, admin, "bob", Role.SUBMITTER)
    headers = {"Idempotency-Key": "the-same"}
    first, second, other = (
        client.post(f"{V1}/jobs", json=TOY, headers=headers | who).json()["id"] for who in (ada, again, bob)
    )
    assert first == second, "two keys of one name are one owner"
    assert other != first


def test_a_revoked_key_opens_nothing_at_once(client: TestClient, admin: dict[str, str]) -> None:
    created = client.post(
        f"{V1}/keys", json={"name": "ci", "role": "submitter", "expires_in_days": 30}, headers=admin
    ).json()
    headers = bearer(created["key"])
    assert client.get(f"{V1}/jobs", headers=headers).status_code == 200
    revoked = client.post(f"{V1}/keys/{created['id']}/revoke", headers=admin).json()
    assert revoked["revoked_at"] is not None
    assert "was revoked" in assert_problem(client.get(f"{V1}/jobs", headers=headers), 401)["detail"]
    items = {item["id"]: item for item in client.get(f"{V1}/keys", headers=admin).json()["items"]}
    assert items[created["id"]] == revoked
    assert "key" not in revoked
    assert_problem(client.post(f"{V1}/keys/aaaaaaaa/revoke", headers=admin), 404)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "ä", "a" * 101, "a\n"])
def test_a_name_that_could_not_own_jobs_is_refused(client: TestClient, admin: dict[str, str], name: str) -> None:
    answer = client.post(f"{V1}/keys", json={"name": name, "role": "viewer"}, headers=admin)
    assert assert_problem(answer, 422)["errors"][0]["pointer"] == "/name"


def test_no_answer_and_no_log_has_the_key_that_was_sent(
    client: TestClient, ada: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = ada["Authorization"].removeprefix("Bearer ")
    for headers in (ada, bearer(key[:-1]), bearer(key + "a"), {"Authorization": key}):
        for method, path in (("GET", "/jobs"), ("GET", "/jobs/job-none"), ("POST", "/jobs"), ("GET", "/usage")):
            answer = client.request(method, f"{V1}{path}", headers=headers, json={})
            assert key[15:47] not in answer.text
    assert key[15:47] not in caplog.text


def test_an_attempts_token_is_no_key_and_a_key_no_token(client: TestClient, admin: dict[str, str]) -> None:
    assert_problem(client.get(f"{V1}/jobs", headers=bearer("a-token-of-an-attempt")), 401)
    batch = {"source": "rank-0", "first_seq": 1, "records": []}
    answer = client.post(f"{V1}/ingest/batches", json=batch, headers=admin)
    assert "belongs to no attempt" in assert_problem(answer, 401)["detail"]


def test_the_command_line_and_the_client_take_the_key_from_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(symadj(tmp_path, "keys", "create", "dora", "--role", "submitter").stdout)
    key = file.read_text().strip()
    with running_api(tmp_path, SYMADJ_AUTH="keys", SYMADJ_KEY_SECRET=SECRET) as server:
        with Client(server.url, api_key=key) as client:
            job_id = client.submit(TOY).id
        shown = symadj(tmp_path, "list", "--url", server.url, SYMADJ_API_KEY=key).stdout
        assert job_id in shown
        assert "dora" in shown
        report = symadj(tmp_path, "show", job_id, "--url", server.url, "--api-key-file", str(file)).stdout
        assert 'curl -s -H "Authorization: Bearer $SYMADJ_API_KEY"' in report
        assert key[15:47] not in report
        refused = symadj(tmp_path, "list", "--url", server.url)
        assert refused.returncode == 1
        assert "--api-key-file" in refused.stderr


def test_the_command_line_makes_lists_and_revokes_keys(settings: Settings, client: TestClient) -> None:
    made = symadj(settings.data, "keys", "create", "carl", "--role", "submitter", "--expires-days", "7")
    key = made.stdout.strip()
    assert key.startswith("symadj_"), made.stderr
    assert client.get(f"{V1}/jobs", headers=bearer(key)).status_code == 200
    shown = symadj(settings.data, "keys", "list").stdout
    assert key[7:15] in shown
    assert key[15:] not in shown
    assert "valid until" in shown
    assert "revoked" in symadj(settings.data, "keys", "revoke", key[7:15]).stdout
    assert client.get(f"{V1}/jobs", headers=bearer(key)).status_code == 401


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (("keys", "create", "a b", "--role", "viewer"), {}, "is not a name"),
        (("keys", "create", "a", "--role", "king"), {}, "viewer"),
        (("keys", "create", "a", "--role", "viewer"), {"SYMADJ_KEY_SECRET": ""}, "set SYMADJ_KEY_SECRET"),
        (("keys", "create", "a", "--role", "viewer"), {"SYMADJ_KEY_SECRET": "short"}, "SYMADJ_KEY_SECRET: "),
        (("keys", "revoke", "aaaaaaaa"), {}, "no key 'aaaaaaaa'"),
        (("keys", "bootstrap", "--file", "/nowhere/admin"), {"SYMADJ_DATA": "empty"}, "can't be written"),
        (("list", "--api-key-file", "/nowhere/key"), {}, "--api-key-file"),
        (("list",), {"SYMADJ_API_KEY": "two words"}, "begins with symadj_"),
        (("serve", "--host", "0.0.0.0"), {}, "--insecure"),
        (("serve",), {"SYMADJ_AUTH": "keys", "SYMADJ_KEY_SECRET": ""}, "set SYMADJ_KEY_SECRET"),
        (("serve",), {"SYMADJ_AUTH": "maybe"}, "SYMADJ_AUTH"),
    ],
)
def test_what_cannot_be_done_with_keys_is_told_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    if "SYMADJ_DATA" in environment:
        environment = environment | {"SYMADJ_DATA": str(tmp_path / environment["SYMADJ_DATA"])}
    result = symadj(tmp_path, *words, **environment)
    assert result.returncode in {1, 2}
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "::1"])
def test_without_keys_the_api_listens_to_this_machine(host: str) -> None:
    check_exposure(Settings(auth="none"), host, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "fe80::1"])
def test_without_keys_the_api_does_not_listen_to_others_unless_told(host: str) -> None:
    with pytest.raises(ExposedError, match="SYMADJ_AUTH=keys"):
        check_exposure(Settings(auth="none"), host, insecure=False)
    check_exposure(Settings(auth="none"), host, insecure=True)
    check_exposure(Settings(auth="keys", key_secret=SECRET), host, insecure=False)
