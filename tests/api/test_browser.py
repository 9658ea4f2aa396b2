"""What web pages of others can do to a service without keys, by way of a real browser on its user's machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.api.conftest import PATIENCE_SECONDS, Run
from tests.conftest import TOY, ApiServer

# Sends a request in each way that a page has without asking first, and tells how each ended.
SEND_ALL = """
const [base, job, spec, done] = arguments;
const tries = [
  ...["pause", "cancel", "checkpoint", "resume"].map(what => [`/${job}/${what}`, {method: "POST"}]),
  [`/${job}`, {method: "DELETE"}],
  ["", {method: "POST", body: spec}],
  ["", {method: "POST", body: spec, headers: {"Content-Type": "application/json"}}],
];
const send = ([path, options]) => fetch(base + "/api/v1/jobs" + path, options)
    .then(answer => answer.status, error => "blocked");
const blind = tries.filter(([_, options]) => options.method == "POST" && !options.headers)
    .map(([path, options]) => [path, {...options, mode: "no-cors"}]);
Promise.all([...tries, ...blind].map(send)).then(done);
"""
READ = "const [url, done] = arguments; fetch(url).then(answer => answer.text()).then(done)"
SUBMIT_FORM = """
const form = document.createElement("form");
form.method = "POST";
form.action = arguments[0];
document.body.append(form);
form.submit();
"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title><p>somebody else's</p>")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be quiet."""


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    """The port of a web server that is not ours."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def assert_untouched(run: Run, jobs_before: int) -> None:
    job = run.get("").json()
    assert (job["state"], job["stop_requested"]) == ("starting", None)
    assert {event["name"] for event in run.get("/events").json()["items"]} == {"queued", "starting"}
    assert count(run.api) == jobs_before


def count(api: httpx.Client) -> int:
    return len(api.get("/api/v1/jobs", params={"limit": 1000}).json()["items"])


def spec() -> str:
    return httpx.Request("POST", "http://localhost", json=TOY).content.decode()


@pytest.mark.parametrize("host", ["evil.example", "localhost"])
def test_a_page_of_another_site_or_another_port_changes_nothing(
    browser: Chrome, run: Run, other_port: int, host: str
) -> None:
    before = count(run.api)
    address = f"http://{host}:{other_port}/"
    browser.get(address)
    api_port = httpx.URL(run.server.url).port
    for base in (run.server.url, f"http://localhost:{api_port}"):
        answers = browser.execute_async_script(SEND_ALL, base, run.job_id, spec())
        assert 201 not in answers, "nothing was accepted, and no answer could be read"
        assert set(answers) <= {0, "blocked"}
        browser.execute_script(SUBMIT_FORM, f"{base}/api/v1/jobs/{run.job_id}/cancel")
        WebDriverWait(browser, PATIENCE_SECONDS).until(lambda b: "foreign-origin" in b.page_source)
        browser.get(address)
    assert_untouched(run, before)


def test_a_name_that_was_rebound_to_this_machine_reads_and_changes_nothing(browser: Chrome, run: Run) -> None:
    before = count(run.api)
    base = f"http://rebound.example:{httpx.URL(run.server.url).port}"
    # A page of the rebound name came from its own server, and has no policy of ours.
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    browser.get(f"{base}/docs")
    assert "SYMADJ_ALLOWED_HOSTS" in browser.page_source, "the refusal says what to do"
    answers = browser.execute_async_script(SEND_ALL, base, run.job_id, spec())
    listed = browser.execute_async_script(READ, f"{base}/api/v1/jobs")
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
    assert set(answers) == {421}, "it is of the same origin to the browser, and can read the refusals"
    assert run.job_id not in listed
    browser.execute_script(SUBMIT_FORM, f"{base}/api/v1/jobs/{run.job_id}/cancel")
    WebDriverWait(browser, PATIENCE_SECONDS).until(lambda b: "urn:symadj:problem:misdirected" in b.page_source)
    assert_untouched(run, before)


def test_the_documentation_works_with_this_server_alone_and_may_submit(
    browser: Chrome, api_server: ApiServer, api: httpx.Client
) -> None:
    browser.get("about:blank")
    browser.get_log("browser")  # what was said before
    browser.get(f"{api_server.url}/docs")
    operations = WebDriverWait(browser, PATIENCE_SECONDS).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, ".opblock-summary-control")
    )
    paths = api.get("/openapi.json").json()["paths"]
    assert len(operations) == sum(len(methods) for methods in paths.values())
    operations[0].click()
    WebDriverWait(browser, PATIENCE_SECONDS).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".opblock-body"))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(url.startswith((f"{api_server.url}/", "data:")) for url in loaded), loaded
    before = count(api)
    send = """
    const [body, done] = arguments;
    fetch("/api/v1/jobs", {method: "POST", body, headers: {"Content-Type": "application/json"}})
        .then(answer => done(answer.status));
    """
    assert browser.execute_async_script(send, spec()) == 201
    assert count(api) == before + 1
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def test_no_page_may_show_the_service_in_a_frame(browser: Chrome, api_server: ApiServer, other_port: int) -> None:
    browser.get(f"http://localhost:{other_port}/")
    browser.get_log("browser")
    show = """
    const [url, done] = arguments;
    const frame = document.createElement("iframe");
    frame.onload = () => done();
    frame.src = url;
    document.body.append(frame);
    """
    browser.execute_async_script(show, f"{api_server.url}/docs")
    said = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "frame-ancestors" in said
