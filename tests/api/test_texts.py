"""Whatever text is accepted can be stored, listed, found and read, on both databases."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symadj.api.app import create_app
from symadj.service import keys
from symadj.service.roles import Role
from symadj.service.settings import Settings
from tests.api.conftest import trained_job
from tests.api.test_fuzz import SECRET, bearer
from tests.core.test_trained import config, folder
from tests.schemas import Documents, TextPlace

# What the schema does not say: a key is an array's name in an npz file, and an unusual path needs a format.
COMPANIONS = {"key": {"format": "npz"}, "path": {"format": "csv"}}
UNFIT = ["\0", "a\0b", "\x01", "a\nb", "\x7f", "\x85", "\ud800", "a\udfffb", "512MiB\ud800", "\ud800" * 30]
FIT = ["a", "\u00e9", "e\u0301", "\U0001f600", "\ufffe\uffff", "\u202e", "' OR 1=1 --", "%", "a\\u0000b", "\\", '"']
TEXTS = st.one_of(
    st.sampled_from([*UNFIT, *FIT]), st.text(st.characters(exclude_categories=()), min_size=1, max_size=20)
)


@pytest.fixture
def client(store_url: str, tmp_path: Path) -> Iterator[TestClient]:
    """A client of an API with an admin's key."""
    configured = Settings(data=tmp_path, store_url=store_url, auth="keys", key_secret=SECRET)
    app = create_app(configured)
    with TestClient(app, raise_server_exceptions=False) as client:
        with app.state.database.session() as session:
            _, admin = keys.create(session, SECRET.encode(), name="root", role=Role.ADMIN)
        client.headers.update(bearer(admin))
        yield client


def bodies(client: TestClient) -> dict[str, list[TextPlace]]:
    """Return the texts of all bodies that a user may POST, by path."""
    document = client.get("/openapi.json").json()
    found = {}
    for path, item in document["paths"].items():
        body = item.get("post", {}).get("requestBody")
        # Runs use /ingest/, and no user; what is sent to a job's flow or for a plan is stored nowhere; a comparison's
        # spec, and a sweep's, is that of its jobs; an upload is of bytes.
        elsewhere = ("/ingest/", "/flow/", "/plans", "/comparisons", "/sweeps", "/uploads")
        if body is not None and not any(part in path for part in elsewhere):
            schema = body["content"]["application/json"]["schema"]
            found[path] = list(Documents(document, COMPANIONS).texts(schema))
    return found


def post(client: TestClient, path: str, body: Any) -> httpx.Response:
    # As ASCII: half a character is written as an escape.
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def read_back(client: TestClient, body: Any, answer: dict[str, Any]) -> None:
    """Read what was stored, and find it."""
    if "spec" not in answer:
        return
    assert client.get(f"/api/v1/jobs/{answer['id']}").json()["spec"] == answer["spec"]
    filters: dict[str, Any] = {"name": answer["name"], "owner": answer["owner"]}
    filters["label"] = [f"{name}={value}" for name, value in body.get("labels", {}).items()]
    listed = client.get("/api/v1/jobs", params=filters)
    assert listed.status_code == 200, filters
    assert answer["id"] in [item["id"] for item in listed.json()["items"]], filters


def unfit(text: str) -> bool:
    return text != "\t" and any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in text)


@pytest.mark.parametrize("backend", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_what_is_accepted_breaks_no_list_filter_or_read(client: TestClient, tmp_path: Path) -> None:
    job_id = trained_job(client, folder(tmp_path / "out", config()))
    places = [(path, place) for path, places in bodies(client).items() for place in places]
    assert {path for path, _ in places} >= {"/api/v1/jobs", "/api/v1/jobs/{job_id}/scores", "/api/v1/keys"}
    accepted: set[str] = set()

    def check(path: str, place: TextPlace, text: str) -> None:
        body = place.document(text)
        answer = post(client, path.format(job_id=job_id), body)
        assert answer.status_code in {201, 422}, (path, place.name, text, answer.text)
        if answer.status_code == 422:
            assert all(error["pointer"] or error["detail"] for error in answer.json()["errors"])
            return
        assert not unfit(text), (place.name, text)
        accepted.add(place.name)
        read_back(client, body, answer.json())

    for path, place in places:
        for text in ["a", "512MiB", "a\0b", "a\n", "\ud800"]:
            check(path, place, text)

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(places), TEXTS)
    def any_text(place: tuple[str, TextPlace], text: str) -> None:
        check(*place, text)

    any_text()
    for path in ("/api/v1/keys", "/api/v1/usage", "/api/v1/jobs?limit=1000", "/api/v1/jobs?label=a=a", "/metrics"):
        assert client.get(path).status_code == 200, path
    # There is no other job to go on from, no host that webhooks may call, and no package with a field is installed.
    of_packages = {place.name for _, place in places if "[plugin]" in place.name}
    assert {place.name for _, place in places} - accepted == {"/parent/job", "/url"} | of_packages


@pytest.mark.parametrize("backend", ["sqlite"])
def test_an_unfit_text_is_refused_with_its_place(client: TestClient) -> None:
    data = {"kind": "file", "path": "a.csv"}
    for text in UNFIT:
        for body, pointer in (
            ({"data": data | {"columns": ["x", text]}}, "/data/columns/1"),
            ({"data": data | {"path": text}}, "/data/path"),
            ({"data": data, "labels": {"a": text}}, "/labels/a"),
            ({"data": data, "labels": {text: "a"}}, "/labels"),
            ({"data": data, "resources": {"memory_budget": text}}, "/resources/memory_budget"),
            ({"data": data, text: 1}, ""),
        ):
            answer = post(client, "/api/v1/jobs", body)
            assert answer.status_code == 422, (text, answer.text)
            (error,) = answer.json()["errors"]
            assert error["pointer"] == pointer, text
            assert "U+" in error["detail"], text
