"""What the client that answers and the client that is awaited have in common, and what their jobs can do."""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest

import symadj_core
from symadj.api.client import ApiProblemError, AsyncClient, AsyncJob, AsyncListedJob, Client, Job, ListedJob
from symadj.api.schemas.jobs import EventRead
from symadj.service.contract.layout import CONFIG, WEIGHTS
from symadj.service.contract.states import JobState
from tests.api.conftest import NOW, Run
from tests.api.test_client import forgetful  # noqa: F401 - a fixture
from tests.api.test_head import leave_a_file
from tests.conftest import TOY, ApiServer
from tests.core.test_trained import config, folder

CLIENTS = (Client, AsyncClient)
CLASSES = ((Client, AsyncClient), (Job, AsyncJob), (ListedJob, AsyncListedJob))


async def answer_of(called: Any) -> Any:
    """Return what a method of either client gives, all items of it where it gives several."""
    if isinstance(called, Generator):
        return list(called)
    if hasattr(called, "__aiter__"):
        return [item async for item in called]
    return await called if inspect.isawaitable(called) else called


def asked(kind: type[Client | AsyncClient], url: str, method: str, *arguments: Any, **named: Any) -> Any:
    """Ask one thing of a server."""

    async def ask() -> Any:
        client = kind(url)
        try:
            return await answer_of(getattr(client, method)(*arguments, **named))
        finally:
            await answer_of(client.close())

    return asyncio.run(ask())


def step(number: int, **metrics: float) -> dict[str, Any]:
    return {"kind": "step", "time": NOW, "step": number, "metrics": metrics}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def own_parameters(method: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(method).parameters.values())[1:]


@pytest.mark.parametrize(("blocking", "awaited"), CLASSES)
def test_both_clients_and_their_jobs_have_the_same_methods_with_the_same_arguments(
    blocking: type, awaited: type
) -> None:
    assert public(blocking) == public(awaited)
    if blocking is Client:
        for name in sorted(public(Client)):
            assert own_parameters(getattr(Client, name)) == own_parameters(getattr(AsyncClient, name)), name


@pytest.mark.parametrize(("client", "job"), [(Client, Job), (AsyncClient, AsyncJob)])
def test_a_job_has_every_method_of_its_client_that_is_about_a_job(client: type, job: type) -> None:
    about_a_job = {
        name
        for name in public(client)
        if (parameters := own_parameters(getattr(client, name))) and parameters[0].name == "job_id"
    }
    assert about_a_job - {"job"} <= public(job)
    assert "refresh" in public(job)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_submission_whose_answer_is_lost_makes_one_job(
    kind: type[Client | AsyncClient],
    forgetful: str,  # noqa: F811
    api: httpx.Client,
) -> None:
    name = f"once {uuid4().hex}"
    job = asked(kind, forgetful, "submit", TOY | {"name": name})
    listed = api.get("/api/v1/jobs", params={"name": name}).json()["items"]
    assert [item["id"] for item in listed] == [job.id]


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_busy_server_is_asked_again_when_it_says(kind: type[Client | AsyncClient]) -> None:
    refusals = ["0", "0"]

    class Busy(Quiet):
        def do_GET(self) -> None:
            self.send_response(503 if refusals else 200)
            if refusals:
                self.send_header("Retry-After", refusals.pop())
            self.end_headers()
            self.wfile.write(b'{"status": "ok", "version": "7"}')

    with serving(Busy) as url:
        assert asked(kind, url, "health").version == "7"
    assert refusals == []


# What a proxy that asks for a name sends: status, header, content, and what is told of it.
SIGN_IN = [
    (200, ("Content-Type", "text/html; charset=utf-8"), b"<html>Sign in</html>", "'<html>Sign in</html>'"),
    (302, ("Location", "https://id.example.org/sign-in"), b"", "redirect to https://id.example.org/sign-in"),
]
ANOTHERS = [
    (200, ("Content-Type", "application/json"), b'{"status": 1}', "status: Input should be a valid string"),
    (200, ("Content-Type", "text/plain"), b"", "Invalid JSON"),
]


@contextmanager
def foreign(status: int, header: tuple[str, str], content: bytes) -> Iterator[str]:
    class Foreign(Quiet):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header(*header)
            self.end_headers()
            self.wfile.write(content)

    with serving(Foreign) as url:
        yield url


@pytest.mark.parametrize(("status", "header", "content", "told"), SIGN_IN + ANOTHERS)
@pytest.mark.parametrize("kind", CLIENTS)
def test_what_a_proxy_or_another_server_answers_is_told_as_that(
    kind: type[Client | AsyncClient], status: int, header: tuple[str, str], content: bytes, told: str
) -> None:
    with foreign(status, header, content) as url, pytest.raises(ApiProblemError, match="not an answer") as caught:
        asked(kind, url, "health")
    assert told in caught.value.detail


@pytest.mark.parametrize(("status", "header", "content", "told"), SIGN_IN)
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_page_to_sign_in_is_written_into_no_file(
    kind: type[Client | AsyncClient], status: int, header: tuple[str, str], content: bytes, told: str
) -> None:
    file = io.BytesIO()
    with foreign(status, header, content) as url, pytest.raises(ApiProblemError, match="not an answer") as caught:
        asked(kind, url, "write_series", "job-1", file)
    assert told in caught.value.detail
    assert file.getvalue() == b""


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_stream_that_breaks_off_is_begun_again_after_the_last_event_that_came(
    kind: type[Client | AsyncClient], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symadj.api.client.attempts.PAUSE_SECONDS", 0.0)
    places: list[str | None] = []
    run.send(step(1, loss=2.0))
    run.end("cancelled")

    class Breaking(Quiet):
        """Sends the first event of an answer, and breaks the connection."""

        def do_GET(self) -> None:
            place = self.headers["Last-Event-ID"]
            places.append(place)
            headers = {} if place is None else {"Last-Event-ID": place}
            answer = httpx.get(f"{run.server.url}{self.path}", headers=headers)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content[: answer.content.find(b"\n\n") + 2])
            self.close_connection = True

    with serving(Breaking) as url:
        came = asked(kind, url, "follow", run.job_id)
    names = [item.name for item in came if isinstance(item, EventRead)]
    assert names == [item["name"] for item in run.get("/events").json()["items"]]
    assert places[0] is None
    assert len(set(places)) == len(places) == len(came) + 1


def test_an_awaited_job_is_up_to_date_once_it_has_ended(run: Run) -> None:
    async def wait() -> None:
        async with AsyncClient(run.server.url) as client:
            job = await client.job(run.job_id)
            waiting = asyncio.create_task(job.wait(timeout=60))
            async for item in job.follow():
                if isinstance(item, EventRead) and item.name == "starting":
                    run.end("failed", reason="diverged", message="the loss is not finite")
            assert await waiting is job
            assert job.state is JobState.FAILED
            assert job.failure is not None
            assert job.failure.message == "the loss is not finite"
            with pytest.raises(AttributeError):
                job.nothing  # type: ignore[attr-defined]  # noqa: B018

    asyncio.run(wait())


@pytest.mark.parametrize("kind", CLIENTS)
def test_who_waits_for_some_seconds_is_told_that_the_job_goes_on(kind: type[Client | AsyncClient], run: Run) -> None:
    with pytest.raises(TimeoutError, match=f"{run.job_id} has not ended within 0.01 s; it goes on"):
        asked(kind, run.server.url, "wait", run.job_id, timeout=0.01)


def test_a_job_is_used_by_itself_and_what_answers_it_brings_it_up_to_date(api_server: ApiServer) -> None:
    with Client(api_server.url) as client:
        job = client.submit(TOY | {"name": "by itself", "labels": {"team": "x"}})
        assert (job.state, job.findings) == (JobState.QUEUED, [])
        assert job.pause() is job
        assert job.state is JobState.PAUSED
        assert job.change(labels={"team": None, "exp": "1"}).labels == {"exp": "1"}
        copy = job.clone({"seed": 3})
        assert (copy.id != job.id, copy.spec["seed"], copy.cancel().state) == (True, 3, JobState.CANCELLED)
        (listed,) = client.jobs(text=job.id).items
        assert listed.refresh().spec == job.spec
        assert repr(listed) == f"<ListedJob {job.id} 'by itself': paused>"
        job.cancel()
        job.delete()
        assert client.jobs(text=job.id).items == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_metrics_are_a_table_of_pandas_with_every_value(kind: type[Client | AsyncClient], run: Run) -> None:
    run.send(step(1, loss=2.0, nfe=7.0), {**step(2), "metrics": {"loss": "Infinity"}})
    run.send(step(3, nfe=9.0))
    table = asked(kind, run.server.url, "metrics", run.job_id).to_pandas()
    assert table.index.name == "step"
    assert table["loss"].dropna().to_dict() == {1: 2.0, 2: float("inf")}
    assert table["nfe"].dropna().to_dict() == {1: 7.0, 3: 9.0}
    (name,) = asked(kind, run.server.url, "metrics", run.job_id, "nfe")
    assert name == "nfe"


def without(*packages: str) -> str:
    """Code after which none of these can be imported."""
    return (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {packages!r}:\n"
        "            raise ModuleNotFoundError('not installed here: ' + name, name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )


def test_the_clients_need_neither_the_server_nor_torch_nor_pandas() -> None:
    more = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "typer", "rich", "yaml", "fsspec")
    script = without("torch", "ray", "numpy", "pandas", *more)
    script += "from symadj.api.client import AsyncClient, Client, Metrics\nMetrics({}).to_pandas()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: to_pandas needs pandas: pip install pandas"


def test_a_client_without_its_packages_says_which_one_is_missing_and_how_it_is_installed() -> None:
    script = without("anyio", "httpx", "pydantic", "tenacity") + "from symadj.api.client import Client\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    told = done.stderr.splitlines()[-1]
    assert told.startswith("ModuleNotFoundError: the client needs the package ")
    assert told.endswith("which is not installed: `pip install '.[client]'` in a checkout of symadj")


class Elements(HTMLParser):
    """The elements of a piece of HTML, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_notebook_shows_jobs_and_metrics_and_nothing_in_them_is_taken_for_html(new_run: Callable[..., Run]) -> None:
    hostile = "<script>alert(1)</script>'\"&"
    run = new_run(labels={"why": hostile})
    run.send(*(step(number, loss=1 / number) for number in range(1, 500)))
    run.end("failed", reason="diverged", message=hostile)
    with Client(run.server.url) as client:
        job = client.job(run.job_id)
        shown = [job, client.jobs(text=run.job_id), job.metrics()]
    pages = [Elements(item._repr_html_()) for item in shown]
    assert set().union(*(page.tags for page in pages)) <= {"table", "tr", "th", "td", "svg", "title", "polyline"}
    for page in pages[:2]:
        assert hostile in page.words
    assert "svg" in pages[2].tags
    assert "loss: 0.00200401 to 1, steps 1 to 499" in pages[2].words
    assert repr(job).startswith(f"<Job {run.job_id} 'flow': failed, step 499 of ")
    assert repr(job).endswith(", loss 0.00200401, diverged>")


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_flow_that_a_job_trained_is_loaded_by_its_id(
    kind: type[Client | AsyncClient], run: Run, tmp_path: Path
) -> None:
    here = folder(tmp_path / "here", config())
    for name in (CONFIG, WEIGHTS):
        leave_a_file(run, (here / name).read_bytes(), name)
    flow = asked(kind, run.server.url, "load", run.job_id)
    rows = {"fsc": [1.0e6], "ssc": [-3.0]}
    assert flow.log_prob(rows).tolist() == symadj_core.load(here).log_prob(rows).tolist()
