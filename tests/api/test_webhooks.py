"""Webhooks over HTTP: who may make, see and remove which, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from symadj.api.app import create_app
from symadj.api.cli.main import app
from symadj.service.roles import Role
from symadj.service.settings import Settings
from tests.api.conftest import Run, leave_a_webhook
from tests.api.test_audit import SECRET, key
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY

WEBHOOKS = "/api/v1/webhooks"
Headers = dict[str, str]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An API that asks for keys and lets webhooks send to one host, in this process."""
    data = tmp_path_factory.mktemp("webhooks")
    settings = Settings(data=data, auth="keys", key_secret=SECRET, webhook_hosts="hooks.example.org")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def who(client: TestClient) -> dict[str, Headers]:
    """Headers with keys, by name."""
    roles = {"root": Role.ADMIN, "ada": Role.SUBMITTER, "bob": Role.SUBMITTER, "eve": Role.VIEWER}
    return {name: key(client, name, role) for name, role in roles.items()}


def make(client: TestClient, headers: Headers, **changes: Any) -> dict[str, Any]:
    answer = client.post(WEBHOOKS, json={"url": "https://hooks.example.org/x"} | changes, headers=headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["location"].endswith(f"{WEBHOOKS}/{made['id']}")
    assert answer.headers["cache-control"] == "no-store"
    return made


def test_a_webhook_shows_its_secret_once_and_is_its_owners_and_the_admins(
    client: TestClient, who: dict[str, Headers]
) -> None:
    made = make(client, who["ada"], labels={"team": "x"})
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    address = f"{WEBHOOKS}/{made['id']}"
    for name in ("ada", "root"):
        read = client.get(address, headers=who[name])
        assert read.json() == made
        assert secret not in client.get(WEBHOOKS, headers=who[name]).text
        assert made["id"] in client.get(WEBHOOKS, headers=who[name]).text
    for name in ("bob", "eve"):
        assert_problem(client.get(address, headers=who[name]), 404)
        assert_problem(client.get(f"{address}/deliveries", headers=who[name]), 404)
        assert client.get(WEBHOOKS, headers=who[name]).json()["items"] == []
    assert_problem(client.delete(address, headers=who["bob"]), 404)
    assert_problem(client.delete(address, headers=who["eve"]), 403)
    assert client.delete(address, headers=who["ada"]).status_code == 204
    assert_problem(client.get(address, headers=who["ada"]), 404)


def test_deliveries_are_listed_with_their_state_in_pages(client: TestClient, who: dict[str, Headers]) -> None:
    made = make(client, who["bob"], events=["queued", "cancelled"])
    address = f"{WEBHOOKS}/{made['id']}"
    job_id = client.post("/api/v1/jobs", json=TOY, headers=who["bob"]).json()["id"]
    client.post(f"/api/v1/jobs/{job_id}/cancel", headers=who["bob"])
    ping = client.post(f"{address}/ping", headers=who["bob"])
    assert (ping.status_code, ping.json()["event"]) == (202, "ping")
    first = client.get(f"{address}/deliveries?limit=2", headers=who["bob"]).json()
    rest = client.get(f"{address}/deliveries", params={"after": first["next_after"]}, headers=who["bob"]).json()
    items = first["items"] + rest["items"]
    assert [(item["event"], item["job_id"]) for item in items] == [
        *(("ping", None), ("cancelled", job_id), ("queued", job_id)),
    ]
    assert {(item["state"], item["tries"], item["status"]) for item in items} == {("pending", 0, None)}
    assert client.get(f"{address}/deliveries?state=failed", headers=who["bob"]).json()["items"] == []
    assert client.post(f"{address}/enable", headers=who["bob"]).json()["disabled_at"] is None


def test_only_an_admins_webhook_is_told_of_everybodys_jobs(client: TestClient, who: dict[str, Headers]) -> None:
    body = {"url": "https://hooks.example.org/", "all_owners": True}
    assert "takes an admin's" in assert_problem(client.post(WEBHOOKS, json=body, headers=who["ada"]), 403)["detail"]
    assert make(client, who["root"], all_owners=True)["all_owners"]


def test_a_host_that_is_not_allowed_is_refused_with_what_to_set(client: TestClient, who: dict[str, Headers]) -> None:
    body = {"url": "http://169.254.169.254/latest"}
    problem = assert_problem(client.post(WEBHOOKS, json=body, headers=who["ada"]), 422)
    assert problem["errors"][0]["pointer"] == "/url"
    assert "SYMADJ_WEBHOOK_HOSTS" in problem["detail"]


def test_without_a_setting_no_host_is_allowed(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(data=tmp_path)), base_url="http://127.0.0.1") as client:
        answer = client.post(WEBHOOKS, json={"url": "https://hooks.example.org/x"})
        assert "SYMADJ_WEBHOOK_HOSTS" in assert_problem(answer, 422)["detail"]


def test_an_owner_has_so_many_webhooks_and_no_more(client: TestClient, who: dict[str, Headers]) -> None:
    carl = key(client, "carl", Role.SUBMITTER)
    made = [make(client, carl)["id"] for _ in range(20)]
    body = {"url": "https://hooks.example.org/x"}
    assert "20 webhooks" in assert_problem(client.post(WEBHOOKS, json=body, headers=carl), 409)["detail"]
    client.delete(f"{WEBHOOKS}/{made[0]}", headers=carl)
    make(client, carl)


def test_the_command_line_shows_tries_and_removes_a_webhook_and_shows_who_did(run: Run) -> None:
    leave_a_webhook(run)

    def command(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--url", run.server.url])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    assert "none" in (listed := command("webhooks", "list"))
    assert "http://127.0.0.1:1/" in listed
    command("webhooks", "ping", "none")
    assert "ping" in command("webhooks", "deliveries", "none", "--state", "pending")
    assert "enabled" in command("webhooks", "enable", "none")
    refused = CliRunner().invoke(app, ["webhooks", "add", "https://a.b/x", "--label", "a=b", "--url", run.server.url])
    assert "SYMADJ_WEBHOOK_HOSTS" in str(refused.exception)
    command("webhooks", "remove", "none")
    assert "none" not in command("webhooks", "list")
    assert "POST /api/v1/webhooks" in command("audit", "--who", "local", "--status", "422")
    assert command("audit", "--id", "nobody", "--json").startswith('{ "items": []')
