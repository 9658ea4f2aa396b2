"""Which names and which web pages a service without keys answers to, and what browsers are told of its answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from symadj.api.app import create_app
from symadj.api.routers import documentation, page
from symadj.api.security_headers import SECURITY_HEADERS
from symadj.service.settings import Settings
from tests.api.conftest import Run
from tests.api.routes import Endpoint, endpoints
from tests.api.test_jobs import assert_problem
from tests.conftest import TOY, ApiServer

Submit = Callable[..., dict[str, Any]]

FOREIGN_NAMES = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "0.0.0.0",
    "192.0.2.1",
    "[::2]",
    "[",
]
OWN_NAMES = ["localhost", "LOCALHOST.", "symadj.localhost", "127.0.0.1", "127.8.8.8", "[::1]"]
CHANGES = [item for item in endpoints() if item.method not in {"GET", "HEAD"}]
FOREIGN_PAGES: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("endpoint", endpoints(), ids=str)
def test_an_endpoint_answers_to_no_name_of_a_stranger(run: Run, endpoint: Endpoint) -> None:
    for name in FOREIGN_NAMES:
        answer = run.api.request(endpoint.method, endpoint.at(run.job_id), headers={"Host": name})
        assert_problem(answer, 421)
    assert run.get("").json()["state"] == "starting", "nothing was done"


@pytest.mark.parametrize("name", OWN_NAMES)
def test_every_name_of_this_machine_alone_is_answered_with_and_without_a_port(api: httpx.Client, name: str) -> None:
    for host in (name, f"{name}:8000"):
        assert api.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_request_that_names_no_host_is_refused(api_server: ApiServer) -> None:
    transport = httpx.HTTPTransport()
    url = httpx.URL(api_server.url)
    request = httpx.Request("GET", url.join("/api/v1/jobs"), headers={"Host": ""})
    assert_problem(httpx.Client(transport=transport).send(request), 421)


def test_names_in_the_settings_and_the_one_that_runs_are_told_are_answered(tmp_path: Path) -> None:
    names = {"allowed_hosts": "Lab.example, trainer", "api_url": "http://head.cluster:8000"}
    with TestClient(create_app(Settings(data=tmp_path, **names))) as api:
        for host in ("lab.example", "trainer:8000", "head.cluster:8000", "127.0.0.1"):
            assert api.get("/api/v1/jobs", headers={"Host": host}).status_code == 200
        assert_problem(api.get("/api/v1/jobs", headers={"Host": "evil.example"}), 421)


@pytest.mark.parametrize("endpoint", CHANGES, ids=str)
def test_a_page_of_another_origin_changes_nothing(run: Run, endpoint: Endpoint) -> None:
    for headers in FOREIGN_PAGES:
        answer = run.api.request(endpoint.method, endpoint.at(run.job_id), headers=headers)
        assert_problem(answer, 403)
        assert answer.json()["type"] == "urn:symadj:problem:foreign-origin", headers
    assert run.get("").json()["stop_requested"] is None


def test_the_own_page_and_whoever_is_no_browser_may_change_things(api: httpx.Client, api_server: ApiServer) -> None:
    own: list[dict[str, str]] = [
        {},
        {"Origin": api_server.url},
        {"Origin": api_server.url, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost", "Host": "localhost:80"},
    ]
    for headers in own:
        assert api.post("/api/v1/jobs", json=TOY, headers=headers).status_code == 201


def test_a_page_of_another_origin_may_ask_and_is_not_allowed_to_read(api: httpx.Client) -> None:
    answer = api.get("/api/v1/jobs", headers=FOREIGN_PAGES[4])
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = {"Access-Control-Request-Method": "DELETE", "Origin": "https://evil.example"}
    assert not api.options("/api/v1/jobs", headers=asked).is_success


@pytest.fixture(scope="module")
def with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An API that asks for keys, with a fault in it."""
    app = create_app(Settings(data=tmp_path_factory.mktemp("with_keys"), auth="keys", key_secret="k" * 32))
    app.add_api_route("/fault", lambda: 1 / 0, include_in_schema=False)
    with TestClient(app, base_url="https://symadj.example", raise_server_exceptions=False) as client:
        yield client


def test_with_keys_any_name_is_answered_and_foreign_pages_change_nothing(with_keys: TestClient) -> None:
    assert with_keys.get("/healthz").status_code == 200
    assert_problem(with_keys.get("/api/v1/jobs"), 401)
    for headers in FOREIGN_PAGES:
        assert_problem(with_keys.post("/api/v1/jobs", json=TOY, headers=headers), 403)
    behind_a_proxy = {"Host": "api:8000", "Origin": "https://symadj.example", "Sec-Fetch-Site": "same-origin"}
    assert_problem(with_keys.post("/api/v1/jobs", json=TOY, headers=behind_a_proxy), 401)


def test_every_answer_has_the_headers_and_errors_have_them_too(run: Run, with_keys: TestClient) -> None:
    answers = [run.api.get(item.at(run.job_id)) for item in endpoints() if item.method == "GET"]
    answers += [run.api.get("/nothing"), run.api.put("/healthz"), run.api.post("/api/v1/jobs", content=b"{")]
    answers += [run.api.get("/", headers={"Host": "evil.example"}), with_keys.get("/api/v1/jobs")]
    answers += [with_keys.get("/fault")]
    assert answers[-1].status_code == 500
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        others = SECURITY_HEADERS.keys() - {"Content-Security-Policy"}
        assert {name: answer.headers.get(name) for name in others} == {name: SECURITY_HEADERS[name] for name in others}


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_names_no_other_host_and_all_that_it_loads_is_here(api: httpx.Client, path: str) -> None:
    shown = api.get(path)
    assert "//" not in shown.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', shown.text)
    assert {f"docs/{name}" for name in documentation.FILES} == set(loaded)
    for address in loaded:
        answer = api.get(f"/{address}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == documentation.FILES[address.removeprefix("docs/")]
    assert "<script>" not in shown.text, "its policy allows none within the page"
    assert "unsafe" not in shown.headers["Content-Security-Policy"].split("style-src")[0]


@pytest.mark.parametrize(
    ("folder", "ours"),
    [(documentation.FOLDER, {"start.js"}), (page.FOLDERS["uplot"], set())],
    ids=["swagger_ui", "uplot"],
)
def test_the_files_of_others_are_those_of_their_packages(folder: Path, ours: set[str]) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    told = dict(reversed(line.split()) for line in lines)
    assert {file.name for file in folder.iterdir()} == told.keys() | {"SHA256SUMS"} | ours
    for name, digest in told.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_a_browser_gets_the_page_and_others_are_told_that_nothing_is_there(api: httpx.Client) -> None:
    shown = api.get("/", headers={"Accept": "text/html,application/xml;q=0.9,*/*;q=0.8"})
    assert shown.headers["content-type"].partition(";")[0] == "text/html"
    assert "unsafe" not in shown.headers["Content-Security-Policy"]
    others = api.get("/")
    assert "/openapi.json" in assert_problem(others, 404)["detail"]
    assert shown.headers["Vary"] == others.headers["Vary"] == "Accept", "no cache gives one of them for the other"


@pytest.mark.parametrize("name", page.FILES)
def test_every_file_of_the_page_is_sent_without_a_key_and_loads_files_of_the_page_alone(
    with_keys: TestClient, name: str
) -> None:
    answer = with_keys.get(f"/{name}")
    assert answer.status_code == 200
    loaded = re.findall(r'(?:src|href)="(?!#|docs)([^"]+)"', answer.text if name.endswith(".html") else "")
    loaded += [f"page/{item}" for item in re.findall(r'from "\./([^"]+)"', answer.text)]
    assert set(loaded) <= page.FILES.keys()
    if name.startswith("page/"):
        text = answer.text.replace('"http://www.w3.org/2000/svg"', "")  # the name of a language, which nobody asks for
        assert not re.search("//(?! )|innerHTML|insertAdjacentHTML|outerHTML|document.write", text)
