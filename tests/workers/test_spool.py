"""The file between the training loop and the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from symadj.workers.delivery.spool import Spool
from tests.workers.runs import full_disk


def test_a_record_is_found_by_its_number_wherever_it_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "job" / "1" / "rank-0.jsonl")
    for number in range(1, 1001):
        assert spool.append(f'{{"n":{number}}}'.encode()) == number
    for first in (1, 2, 255, 256, 257, 513, 1000):
        assert spool.read(first, 2, 10**6)[0] == f'{{"n":{first}}}'.encode()
    assert spool.read(1001, 10, 10**6) == []
    assert len(spool.read(990, 100, 10**6)) == 11


def test_a_batch_is_bounded_in_bytes_but_never_empty(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    for _ in range(5):
        spool.append(b"x" * 100)
    assert len(spool.read(1, 10, 250)) == 2
    assert len(spool.read(1, 10, 50)) == 1


def test_an_existing_file_is_continued_and_a_line_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2}\n{"n":')
    spool = Spool(path)
    assert spool.count == 2
    assert spool.append(b'{"n":3}') == 3
    assert spool.read(1, 10, 10**6) == [b'{"n":1}', b'{"n":2}', b'{"n":3}']


@pytest.mark.parametrize("room", [0, 5, 16, 20])
def test_what_a_full_disk_does_not_take_is_kept_and_written_when_there_is_room(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a.jsonl"
    spool = Spool(path)
    lines = [f'{{"n":{number}}}'.encode() for number in range(1, 7)]
    with full_disk(room):
        assert [spool.append(line) for line in lines[:4]] == [1, 2, 3, 4]
        assert spool.read(1, 10, 10**6) == lines[:4]
        assert spool.read(3, 1, 10**6) == lines[2:3]
        assert spool.read(5, 1, 10**6) == []
    assert spool.append(lines[4]) == 5
    assert path.read_bytes() == b"\n".join(lines[:5]) + b"\n"
    assert spool.append(lines[5]) == 6
    assert spool.read(1, 10, 10**6) == lines


def test_deleting_leaves_no_empty_folders_but_keeps_the_others_files(tmp_path: Path) -> None:
    first = Spool(tmp_path / "job" / "1" / "rank-0.jsonl")
    second = Spool(tmp_path / "job" / "1" / "rank-1.jsonl")
    first.close(delete=True)
    assert second.path.exists()
    second.close(delete=True)
    assert list(tmp_path.iterdir()) == []
