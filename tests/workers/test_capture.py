"""What a process prints: read from its files, masked, within bounds, and found when it has died."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from symadj.service.contract.output import Mask, Output, OutputReader, left_behind
from symadj.service.contract.records import LogRecord
from symadj.service.contract.states import ReasonCode
from symadj.workers.delivery.capture import captured
from symadj.workers.delivery.sender import Sender
from symadj.workers.delivery.spool import Spool
from symadj.workers.outcome import Failure
from symadj.workers.ray import last_words
from symadj.workers.ray.last_words import quote, take_last_words
from tests.workers.ingest import TOKEN, IngestServer

MOST = 2**19


@pytest.fixture
def printed(tmp_path: Path) -> Path:
    return tmp_path / "worker.err"


@pytest.fixture
def reader(printed: Path) -> OutputReader:
    printed.touch()
    return OutputReader(Output("stderr", str(printed)), Mask())


def add(file: Path, content: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(content)


def texts(records: list[LogRecord]) -> list[str]:
    return [line for record in records for line in record.lines]


def test_a_line_is_read_once_and_when_it_has_ended(printed: Path, reader: OutputReader) -> None:
    add(printed, b"one\ntw")
    assert texts(reader.read(MOST)) == ["one"]
    add(printed, "o\nthr\xe9e".encode())
    assert texts(reader.read(MOST)) == ["two"]
    assert reader.read(MOST) == []
    (last,) = reader.read(MOST, to_the_end=True)
    assert (last.lines, last.end) == (["thr\xe9e"], printed.stat().st_size)


def test_what_goes_on_from_a_place_goes_on_from_there(printed: Path, reader: OutputReader) -> None:
    add(printed, b"one\ntwo\n")
    (record,) = reader.read(MOST)
    add(printed, b"three\n")
    assert texts(OutputReader(reader.output, Mask(), record.end).read(MOST)) == ["three"]


def test_a_bar_of_progress_is_the_line_that_it_drew_last_and_marks_of_ray_are_none(
    printed: Path, reader: OutputReader
) -> None:
    add(printed, b":job_id:01000000\n:actor_name:RayTrainWorker\n 10%\r 50%\r100%\nwindows\r\n")
    assert texts(reader.read(MOST)) == ["100%", "windows"]


@pytest.mark.parametrize("line", [b"x" * 99 + b"\n", b"\n", b"y" * 30_000 + b"\n"], ids=["usual", "empty", "long"])
def test_of_too_much_the_newest_lines_are_read_and_the_bytes_before_them_are_counted(
    printed: Path, reader: OutputReader, line: bytes
) -> None:
    add(printed, b"first\n")
    assert texts(reader.read(MOST)) == ["first"]
    add(printed, line * (2**21 // len(line)) + b"last\n")
    records = reader.read(100_000)
    assert texts(records)[-1] == "last"
    assert sum(len(text.encode()) + 100 for text in texts(records)) <= 100_000
    raw = sum(len(line) for _ in texts(records)[:-1]) + len(b"last\n")
    assert records[0].left_out_bytes == printed.stat().st_size - len(b"first\n") - raw
    assert records[-1].end == printed.stat().st_size
    assert all(len(record.lines) <= 1000 for record in records)


def test_a_line_without_an_end_is_not_waited_for_for_ever(printed: Path, reader: OutputReader) -> None:
    add(printed, b"z" * 2**17)
    (record,) = reader.read(MOST)
    assert record.end == 2**17
    add(printed, b"\nnext\n")
    assert texts(reader.read(MOST))[-1] == "next"


SECRETS = {
    "S3CR3T-of-a-bucket": "botocore signs with S3CR3T-of-a-bucket",
    "dG9rZW4tb2YtcmF5": "{'Authorization': 'Bearer dG9rZW4tb2YtcmF5'}",
    "dXNlcjpwYXNz": "> authorization: Basic dXNlcjpwYXNz",
    "hunter22": "postgresql+psycopg://ada:hunter22@db:5432/symadj",
    "wJalrXUtnFEMI/K7MDENG": '"aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG"',
    "fe5f80f77d5fa3be": "GET /b/k?X-Amz-Signature=fe5f80f77d5fa3be&x=1",
    "AKIAIOSFODNN7EXAMPLE": "key AKIAIOSFODNN7EXAMPLE is not known",
    "symadj_" + "a2" * 23 + "b": "sent symadj_" + "a2" * 23 + "b",
    "token-of-the-attempt": "sent with token-of-the-attempt",
}


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_masked(secret: str) -> None:
    mask = Mask.of_environment({"AWS_SECRET_ACCESS_KEY": "S3CR3T-of-a-bucket", "HOME": "/home/ada"}, TOKEN)
    masked = mask(SECRETS[secret])
    assert secret not in masked
    assert "[masked]" in masked


@pytest.mark.parametrize(
    "line",
    [
        "num_tokens=1000000, tokens: 123456",
        "File /home/ada/secret_project/train.py, line 3",
        "symadj_job_host_peak_bytes is 1000000",
        "http://127.0.0.1:8000/api/v1/jobs answers at 12:00:01",
        "loss 2.5 after step 3",
    ],
)
def test_other_words_are_left_as_they_are(line: str) -> None:
    assert Mask.of_environment({"HOME": "/home/ada", "RAY_AUTH_MODE": "token"}, TOKEN)(line) == line


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "job-1" / "1" / "rank-1.jsonl"


@pytest.fixture
def sender(ingest: IngestServer, spool: Path) -> Iterator[Sender]:
    sender = Sender(Spool(spool), ingest.url, TOKEN, "rank-1")
    yield sender
    sender.close()


def test_what_is_printed_is_sent_while_it_goes_on_and_at_the_end(
    ingest: IngestServer, sender: Sender, printed: Path
) -> None:
    def arrived() -> list[str]:
        return [line for record in ingest.records["rank-1"] for line in record["lines"]]

    add(printed, b"before\n")
    with captured(sender, [Output("stderr", str(printed))], TOKEN):
        ingest.wait_for(lambda: arrived() == ["before"])
        add(printed, f"token {TOKEN}\nunfinished".encode())
    assert sender.flush(20)
    assert arrived() == ["before", "token [masked]", "unfinished"]
    assert not list(sender.spool.parent.glob("*.outputs")), "it has told all: nobody needs to look"


# A rank of its own: it prints to files as Ray's workers do, and dies.
RANK = """
import faulthandler, os, sys, time
from pathlib import Path
from symadj.service.contract.output import outputs_of_this_process
from symadj.workers.delivery.capture import captured
from symadj.workers.delivery.sender import Sender
from symadj.workers.delivery.spool import Spool

faulthandler.enable()
sender = Sender(Spool(Path(sys.argv[1])), sys.argv[2], sys.argv[3], "rank-1")
with captured(sender, outputs_of_this_process(), sys.argv[3]):
    print("of the beginning", flush=True)
    sys.stdin.readline()
    os.write(2, b"the library is not amused by token-of-the-attempt\\n")
    os.abort() if sys.argv[4] == "SIGABRT" else os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["SIGABRT", "SIGKILL"])
def test_the_last_words_of_a_rank_that_died_are_delivered_once_and_quoted(
    ingest: IngestServer, spool: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ingest.order({"data": {"kind": "toy", "name": "moons"}})
    order = order.model_copy(update={"spool": str(tmp_path / "spool")})
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        command = [sys.executable, "-c", RANK, str(spool), ingest.url, TOKEN, how]
        rank = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err)
    ingest.wait_for(lambda: ingest.records["rank-1"], timeout=60)
    assert rank.stdin is not None
    with left_behind(spool, Mask()) as (rest, last):
        assert (rest, last) == ([], []), "it lives, and tells by itself"
    rank.communicate(b"\n")
    assert rank.returncode == -signal.Signals[how]

    monkeypatch.setattr(last_words, "ray", OneNode)
    words = take_last_words(order, TOKEN)
    arrived = {record["stream"]: record["lines"] for record in ingest.records["rank-1"]}
    assert arrived["stdout"] == ["of the beginning"]
    assert arrived["stderr"][0] == "the library is not amused by [masked]"
    assert ("Fatal Python error: Aborted" in arrived["stderr"]) == (how == "SIGABRT")
    assert take_last_words(order, TOKEN) == []
    assert not spool.exists()

    failure = quote(Failure(ReasonCode.WORKER_LOST, "the process of a worker died"), [1], words)
    assert failure.message.startswith("the process of a worker died: rank 1 (")
    assert "the library is not amused by [masked]" in failure.message
    assert (failure.data["rank"], failure.data["signal"]) == (1, "SIGABRT" if how == "SIGABRT" else None)
    assert "rank 1 (without a trace, as by SIGKILL)" in failure.message or how == "SIGABRT"
    assert "Extension modules" not in failure.message
    assert failure.message.count("Current thread") == (how == "SIGABRT"), "each line once"


class OneNode:
    """A Ray whose only node is this one."""

    @staticmethod
    def nodes() -> list[dict[str, str]]:
        return []

    @staticmethod
    def remote(**_options: object) -> object:
        return lambda function: function

    @staticmethod
    def get_runtime_context() -> object:
        return type("Context", (), {"get_node_id": staticmethod(lambda: "here")})


def test_a_process_that_prints_to_a_pipe_has_no_files(tmp_path: Path) -> None:
    code = "from symadj.service.contract.output import outputs_of_this_process as of; print([o.stream for o in of()])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert shown.strip() == "[]"
    for error, streams in ((subprocess.STDOUT, "['output']"), (None, "['stdout', 'stderr']")):
        with (tmp_path / "both").open("w") as file, (tmp_path / "errors").open("w") as errors:
            subprocess.run([sys.executable, "-c", code], stdout=file, stderr=error or errors, check=True)
        assert (tmp_path / "both").read_text().strip() == streams
