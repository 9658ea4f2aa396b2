"""Logs over HTTP, in the client and on the command line: sent as a run sends them, read as a user reads them."""

from __future__ import annotations

import subprocess
import threading
from typing import Any

from typer.testing import CliRunner

from symadj.api.cli import main
from symadj.service.contract.states import ReasonCode
from tests.api.conftest import NOW, Run
from tests.api.test_jobs import assert_problem
from tests.command import SYMADJ, symadj


def printed(*lines: str, stream: str = "stdout", left_out_bytes: int = 0) -> dict[str, Any]:
    record = {"kind": "log", "time": NOW, "stream": stream, "lines": list(lines), "end": 0}
    return record | {"left_out_bytes": left_out_bytes}


def texts(run: Run, **parameters: Any) -> list[str]:
    answer = run.get("/logs", params=parameters)
    assert answer.status_code == 200, answer.text
    return [item["text"] for item in answer.json()["items"]]


def test_what_each_process_printed_is_read_apart_by_rank_stream_and_attempt(run: Run) -> None:
    run.send(printed("driver here", stream="output"), source="driver", first_seq=1)
    run.send(printed("zero"), first_seq=1)
    run.send(printed("one"), printed("alas", stream="stderr"), source="rank-1", first_seq=1)
    assert texts(run) == ["driver here", "zero", "one", "alas"]
    assert texts(run, rank="driver") == ["driver here"]
    assert texts(run, rank=1) == ["one", "alas"]
    assert texts(run, rank=1, stream="stderr") == ["alas"]
    assert texts(run, attempt=2) == []
    items = run.get("/logs").json()["items"]
    assert [(item["rank"], item["stream"], item["attempt"]) for item in items] == [
        (None, "output", 1),
        (0, "stdout", 1),
        (1, "stdout", 1),
        (1, "stderr", 1),
    ]
    problem = assert_problem(run.get("/logs", params={"rank": "drivers"}), 422)
    assert "driver" in str(problem["errors"])


def test_reading_on_page_by_page_sees_every_line_once_and_tail_the_newest(run: Run) -> None:
    run.send(*(printed(str(number)) for number in range(10)))
    seen, after = [], 0
    while True:
        page = run.get("/logs", params={"after": after, "limit": 3}).json()
        if not page["items"]:
            break
        seen += [item["text"] for item in page["items"]]
        after = page["next_after"]
    assert seen == [str(number) for number in range(10)]
    assert not page["complete"], "the job goes on"
    newest = run.get("/logs", params={"tail": 2}).json()
    assert [item["text"] for item in newest["items"]] == ["8", "9"]
    assert newest["next_after"] == after
    run.end("cancelled")
    assert run.get("/logs", params={"after": after}).json()["complete"]


def test_who_waits_is_answered_when_the_rank_prints(run: Run) -> None:
    run.send(printed("before"))
    after = run.get("/logs").json()["next_after"]
    answers: list[list[str]] = []
    waiting = threading.Thread(target=lambda: answers.append(texts(run, rank=0, after=after, wait=20)))
    waiting.start()
    run.send(printed("of another"), source="rank-1", first_seq=1)
    run.send(printed("now"), first_seq=2)
    waiting.join()
    assert answers == [["now"]]


def test_curl_gets_plain_lines_and_an_unchanged_answer_is_not_sent_again(run: Run) -> None:
    run.send(printed("step 1", "step 2", left_out_bytes=1234))
    answer = run.get("/logs", headers={"Accept": "text/plain"})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.splitlines() == [
        "2026-01-01T00:00:00Z rank-0 [1,234 bytes were left out here]",
        "2026-01-01T00:00:00Z rank-0 step 1",
        "2026-01-01T00:00:00Z rank-0 step 2",
    ]
    again = run.get("/logs", headers={"Accept": "text/plain", "If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert_problem(run.get("/logs", headers={"Accept": "image/png"}), 406)


def test_the_command_prints_the_lines_of_all_or_of_one_with_who_printed_them(run: Run) -> None:
    run.send(printed("driver here", stream="output"), source="driver", first_seq=1)
    run.send(printed("one", "two", left_out_bytes=1234), source="rank-1", first_seq=1)
    run.lose(ReasonCode.WORKER_LOST, "gone")
    run.claim_again()
    run.send(printed("again"), source="rank-1", first_seq=1)
    left_out = "[1,234 bytes were left out here]"
    assert printed_by(run, "logs", run.job_id) == [
        "==> attempt 1 <==",
        "driver | driver here",
        f"rank-1 | {left_out}",
        "rank-1 | one",
        "rank-1 | two",
        "==> attempt 2 <==",
        "rank-1 | again",
    ]
    assert printed_by(run, "logs", run.job_id, "--rank", "1", "--attempt", "1") == [left_out, "one", "two"]
    (newest,) = printed_by(run, "logs", run.job_id, "--tail", "1", "--json")
    assert '"text":"again"' in newest
    wrong = symadj(run.server, "logs", run.job_id, "--rank", "first")
    assert wrong.returncode == 1
    assert "rank" in wrong.stderr


def printed_by(run: Run, *words: str) -> list[str]:
    done = CliRunner().invoke(main.app, [*words, "--url", run.server.url])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_following_prints_lines_as_they_come_until_the_job_has_ended(run: Run) -> None:
    run.send(printed("at once"))
    command = [SYMADJ, "logs", run.job_id, "-f", "--url", run.server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert [next(following.stdout) for _ in range(2)] == ["==> attempt 1 <==\n", "rank-0 | at once\n"]
        run.send(printed("later"), first_seq=2)
        assert next(following.stdout) == "rank-0 | later\n"
        run.end("cancelled")
        assert following.wait(30) == 0
