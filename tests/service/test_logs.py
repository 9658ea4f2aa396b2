"""Logs in the store: kept within bounds, each line once, gone with their job."""

from __future__ import annotations

from typing import Any

import pytest

from symadj.service.contract.storable import LONGEST_LINE
from symadj.service.lifecycle import attempts
from symadj.service.store import Database, jobs, logs
from symadj.service.store.tables import LogLine
from tests.service.lives import TIME, claim, lose, send, send_late, submit

A_LINE = "x" * 900


def printed(*lines: str, stream: str = "stdout", left_out_bytes: int = 0) -> dict[str, Any]:
    record = {"kind": "log", "time": TIME, "stream": stream, "lines": list(lines), "end": 0}
    return record | {"left_out_bytes": left_out_bytes}


def stored(database: Database, job_id: str, **filters: Any) -> list[LogLine]:
    with database.read_session() as session:
        return list(logs.lines(session, job_id, limit=100_000, **filters))


@pytest.fixture
def started(database: Database) -> attempts.Claim:
    return claim(database, submit(database))


def print_much(database: Database, started: attempts.Claim, megabytes: int) -> int:
    """Let rank 0 print; return how many lines it printed."""
    count = megabytes * 2**20 // len(A_LINE)
    batches = [range(first, min(first + 1000, count)) for first in range(0, count, 1000)]
    for number, batch in enumerate(batches, 1):
        send(database, started.token, number, printed(*(f"{line_number} {A_LINE}" for line_number in batch)))
    return count


def test_of_much_output_the_beginning_and_the_newest_lines_are_kept_and_one_line_says_what_is_missing(
    database: Database, started: attempts.Claim
) -> None:
    count = print_much(database, started, 2)
    lines = stored(database, started.job.id)
    numbers = [int(line.text.split()[0]) for line in lines if not line.left_out_bytes]
    (gap,) = [line for line in lines if line.left_out_bytes]
    first_missing = lines.index(gap)
    assert numbers[:first_missing] == list(range(first_missing)), "the beginning"
    assert numbers[first_missing:] == list(range(count - len(numbers) + first_missing, count)), "the newest"
    missing = range(first_missing, count - len(numbers) + first_missing)
    assert gap.left_out_bytes == sum(len(f"{number} {A_LINE}\n") for number in missing)
    assert [line.seq for line in lines] == sorted({line.seq for line in lines})
    kept = sum(line.bytes for line in lines)
    assert kept <= logs.HEAD_BYTES + 1.25 * logs.TAIL_BYTES + 2000
    with database.read_session() as session:
        assert jobs.bytes_of(session, "ada") == kept, "they count as bytes of their owner"


def test_who_reads_on_from_any_number_learns_of_what_was_left_out(database: Database, started: attempts.Claim) -> None:
    send(database, started.token, 1, printed("first"))
    seen = stored(database, started.job.id)[-1].seq
    for number in range(2, 5):
        send(database, started.token, number, printed(*[A_LINE] * 1000))
    later = stored(database, started.job.id, after=seen)
    assert [line.left_out_bytes > 0 for line in later].count(True) == 1
    assert stored(database, started.job.id, after=later[-1].seq) == []


def test_a_job_keeps_no_more_than_its_bound_however_many_processes_print(
    database: Database, started: attempts.Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "JOB_BYTES", 2**16)
    for rank in range(4):
        send(database, started.token, 1, *(printed(*["y" * 3000] * 5) for _ in range(3)), source=f"rank-{rank}")
    lines = stored(database, started.job.id)
    assert sum(line.bytes for line in lines) <= logs.JOB_BYTES
    assert lines[-1].source == "rank-3", "the newest are kept"
    for rank in range(3):
        assert stored(database, started.job.id, source=f"rank-{rank}")[0].left_out_bytes > 0, "and the rest is told of"


def test_a_line_has_no_controls_of_a_terminal_and_is_cut(database: Database, started: attempts.Claim) -> None:
    send(database, started.token, 1, printed("\x1b[31mred\x1b[0m\x1b]0;title\x07\a\tend\0", "z" * 100_000, "h\ud800"))
    red, long, half = (line.text for line in stored(database, started.job.id))
    assert red == "red\tend"
    assert (len(long), long[-5:]) == (LONGEST_LINE, "(cut)")
    assert half == "h?"


def test_what_a_process_left_out_itself_is_told_where_it_was(database: Database, started: attempts.Claim) -> None:
    send(database, started.token, 1, printed("a"), printed("b", left_out_bytes=5000))
    assert [(line.text, line.left_out_bytes) for line in stored(database, started.job.id)] == [
        ("a", 0),
        ("", 5000),
        ("b", 0),
    ]


def test_processes_streams_and_attempts_are_kept_apart(database: Database, started: attempts.Claim) -> None:
    job_id = started.job.id
    send(database, started.token, 1, printed("zero"))
    send(database, started.token, 1, printed("one"), printed("trouble", stream="stderr"), source="rank-1")
    lose(database, job_id)
    second = claim(database, job_id)
    send(database, second.token, 1, printed("again"), source="rank-1")
    send_late(
        database, job_id, 1, printed("one"), printed("trouble", stream="stderr"), printed("last"), source="rank-1"
    )

    def texts(**filters: Any) -> list[str]:
        return [line.text for line in stored(database, job_id, **filters)]

    assert texts(source="rank-0") == ["zero"]
    assert texts(source="rank-1", attempt=1) == ["one", "trouble", "last"], "what it left behind too, each once"
    assert texts(source="rank-1", stream="stderr") == ["trouble"]
    assert texts(attempt=2) == ["again"]


def test_a_live_attempt_that_was_lost_still_brings_in_what_it_printed(
    database: Database, started: attempts.Claim
) -> None:
    lose(database, started.job.id)
    send(database, started.token, 1, printed("last words"))
    assert [line.text for line in stored(database, started.job.id)] == ["last words"]


def test_logs_go_with_their_job(database: Database, started: attempts.Claim) -> None:
    send(database, started.token, 1, printed("a"))
    with database.session() as session:
        jobs.delete(session, jobs.get(session, started.job.id))
    with database.session() as session:
        assert logs.last_seq(session, started.job.id) == 0
        assert jobs.bytes_of(session, "ada") == 0
