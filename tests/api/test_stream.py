"""What happens to a job, as server-sent events."""

from __future__ import annotations

import json
from typing import Any

import httpx
from typer.testing import CliRunner

from symadj.api.cli import main
from symadj.api.client import Client
from symadj.api.schemas.jobs import EventRead
from tests.api.conftest import NOW, Run
from tests.api.test_jobs import assert_problem
from tests.command import symadj


def step(number: int, **metrics: float) -> dict[str, Any]:
    return {"kind": "step", "time": NOW, "step": number, "metrics": metrics}


def frames(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append(fields | {"data": json.loads(fields["data"])})
    return found


def test_a_stream_goes_on_after_the_last_event_that_was_received(run: Run) -> None:
    run.send(step(1, loss=2.0), step(2, loss=1.5))
    first = frames(run.get("/stream").text)
    assert [item["data"]["name"] for item in first if item["event"] == "event"][:2] == ["queued", "starting"]
    (values,) = first[-1]["data"]["items"]
    assert (values["name"], values["last_step"], values["last_value"]) == ("loss", 2, 1.5)
    headers = {"Last-Event-ID": first[-1]["id"]}
    assert run.get("/stream", headers=headers).text == ""
    run.send(step(3, nfe=7.0))
    (more,) = frames(run.get("/stream", headers=headers).text)
    assert [item["name"] for item in more["data"]["items"]] == ["nfe"]
    assert_problem(run.get("/stream", headers={"Last-Event-ID": "no place"}), 422)


def test_who_follows_is_sent_what_is_new_and_the_end(run: Run) -> None:
    seen: list[str] = []
    with httpx.stream("GET", f"{run.server.url}/api/v1/jobs/{run.job_id}/stream", params={"wait": 60}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if not line.startswith("event: "):
                continue
            seen.append(line.removeprefix("event: "))
            if len(seen) == 2:
                run.send(step(1, loss=2.0))
            if seen[-1] == "values":
                run.end("cancelled")
    assert seen.count("values") == 1
    assert seen[-1] == "end"
    last = frames(run.get("/stream").text)[-1]
    assert (last["event"], last["data"]) == ("end", {"state": "cancelled"})
    assert run.get("/stream", headers={"Last-Event-ID": last["id"]}, params={"wait": 60}).status_code == 204


def test_the_client_and_the_command_line_follow_a_job_to_its_end(run: Run) -> None:
    run.send(step(1, loss=2.0))
    with Client(run.server.url) as client:
        following = client.follow(run.job_id, wait=0)
        assert isinstance(next(following), EventRead)
        run.end("failed", reason="diverged", message="the loss is not finite")
        names = [item.name for item in following if isinstance(item, EventRead)]
    assert names[-1] == "failed"
    shown = symadj(run.server, "events", run.job_id, "--follow").stdout
    assert "failed (driver, attempt 1): the loss is not finite" in shown
    assert symadj(run.server, "events", run.job_id).stdout == shown


def test_an_event_without_a_message_ends_with_its_name(run: Run) -> None:
    run.end("succeeded", result={})
    for command in ("events", "watch"):
        shown = CliRunner().invoke(main.app, [command, run.job_id, "--url", run.server.url]).stdout
        (line,) = [line for line in shown.splitlines() if "succeeded" in line and line[:2].isdigit()]
        assert line.endswith(("succeeded (driver, attempt 1)", "succeeded"))
