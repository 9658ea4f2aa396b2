"""Data that lie in a bucket: found below a root that is a URL, copied to the node once, and read as from a folder."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symadj.service.contract.spec.data import FileData, MafData, ParquetStreamData
from symadj.service.contract.storage import Bucket, StorageUnreachableError
from symadj.workers.data import DataError
from tests.buckets import BucketServer
from tests.workers.loading import load_data, load_table, roots

ROWS = np.random.default_rng(0).normal(size=(200, 3))


@pytest.fixture
def bucket(bucket_server: BucketServer) -> Bucket:
    return Bucket(bucket_server.new_bucket())


@pytest.fixture(autouse=True)
def data_roots(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and the bucket are data roots, in this order; returned is the folder for copies."""
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", f"{tmp_path / 'folder'}:{bucket.location}")
    monkeypatch.setenv("SYMADJ_DATA_CACHE", str(tmp_path / "copies"))
    return tmp_path / "copies"


def npy(rows: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def spec(path: str = "cells/rows.npy", **more: Any) -> FileData:
    return FileData.model_validate({"kind": "file", "path": path, "batch_size": 20, **more})


def copies(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.suffix]


def test_a_file_below_a_url_is_read_as_one_in_a_folder_which_goes_first(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("cells/rows.npy", npy(ROWS))
    assert np.array_equal(load_table(spec()).rows, ROWS)
    (tmp_path / "folder" / "cells").mkdir()
    np.save(tmp_path / "folder" / "cells" / "rows.npy", 2 * ROWS)
    assert np.array_equal(load_table(spec()).rows, 2 * ROWS)


def test_an_object_is_fetched_once_and_again_when_it_was_replaced(
    bucket: Bucket, data_roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    fetch = Bucket.fetch

    def count(self: Bucket, path: str, target: Path) -> None:
        fetched.append(path)
        fetch(self, path, target)

    monkeypatch.setattr(Bucket, "fetch", count)
    bucket.write("cells/rows.npy", npy(ROWS))
    load_table(spec())
    load_table(spec())
    assert fetched == ["cells/rows.npy"]
    bucket.write("cells/rows.npy", npy(-ROWS))
    assert np.array_equal(load_table(spec()).rows, -ROWS)
    assert len(fetched) == 2


def test_an_object_that_is_replaced_while_it_is_fetched_is_fetched_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = Bucket.fetch

    def fetch_and_replace(self: Bucket, path: str, target: Path) -> None:
        fetch(self, path, target)
        monkeypatch.setattr(Bucket, "fetch", fetch)
        self.write(path, npy(-ROWS))

    bucket.write("cells/rows.npy", npy(ROWS))
    monkeypatch.setattr(Bucket, "fetch", fetch_and_replace)
    assert np.array_equal(load_table(spec()).rows, -ROWS)


# Prints how often it fetched, and whether it has all of the file.
FETCHES = """
import sys
from symadj.service.contract.storage import Bucket
from tests.workers.loading import roots
fetch, count = Bucket.fetch, []
def counting(self, path, target):
    count.append(path)
    fetch(self, path, target)
Bucket.fetch = counting
file = roots().find_file("large.bin")
content = file.path.read_bytes()
print(len(count), len(content), len(set(content)))
"""


def test_two_processes_that_want_the_same_object_at_once_fetch_it_once(bucket: Bucket, data_roots: Path) -> None:
    size = 8 * 2**20
    bucket.write("large.bin", b"w" * size)
    processes = [
        subprocess.Popen([sys.executable, "-c", FETCHES], stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    told = sorted(process.communicate(timeout=120)[0].split() for process in processes)
    assert told == [["0", str(size), "1"], ["1", str(size), "1"]]
    assert len(copies(data_roots)) == 1
    assert not list(data_roots.glob("*.incoming"))


def test_parquet_is_streamed_from_a_bucket_in_the_order_that_a_folder_has(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "other" / "rows"
    for name in ("b.parquet", "a/part-1.parquet", "a.parquet", "_hidden.parquet"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        values = ROWS + len(name)
        pq.write_table(pa.table(dict(zip("xyz", values.T, strict=True))), file, row_group_size=64)
        bucket.write(f"rows/{name}", file.read_bytes())
    wanted = ParquetStreamData.model_validate(
        {"kind": "parquet_stream", "path": "rows", "batch_size": 40, "validation_rows": 50, "test_rows": 30}
    )
    ours = load_data(wanted)
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path / "other"))
    theirs = load_data(wanted)
    assert ours.training_rows == theirs.training_rows == 520
    for step in (0, 7, 30):
        assert np.array_equal(ours.batches(40, 3).batch(step).rows, theirs.batches(40, 3).batch(step).rows)


@pytest.mark.parametrize("path", ["../secret.npy", "cells/../../secret.npy", "/secret.npy"])
def test_nothing_leads_out_of_a_root_in_a_bucket(bucket: Bucket, path: str) -> None:
    outer = Bucket(bucket.location.rpartition("/")[0])
    outer.write("secret.npy", npy(ROWS))
    outer.write("prefix-of-another/secret.npy", npy(ROWS))
    with pytest.raises(DataError, match="was not found below a data root"):
        roots().find_file(path)


def test_what_is_not_there_is_told_with_the_roots_and_what_to_do(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("cells/other.npy", b"")
    for unknown in (spec(), spec("cell/other.npy")):
        with pytest.raises(DataError) as caught:
            load_table(unknown)
        words = str(caught.value)
        assert str(tmp_path / "folder") in words
        assert bucket.location in words
        assert "SYMADJ_DATA_ROOTS" in words
    with pytest.raises(DataError, match="is a folder, a file is expected"):
        roots().find_file("cells")
    with pytest.raises(DataError, match=r"data\.npy was not found"):
        load_table(MafData.model_validate({"kind": "maf", "name": "power", "path": "cells"}))


def test_a_root_without_a_bucket_is_told_and_one_that_is_away_is_no_fault_of_the_data(
    bucket: Bucket, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket_server.away(), pytest.raises(StorageUnreachableError):
        load_table(spec())
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", "s3://there-is-none/prefix")
    with pytest.raises(DataError, match=r"s3://there-is-none/prefix .*no such bucket"):
        load_table(spec())


def test_a_cache_that_is_no_folder_is_told(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.write("cells/rows.npy", npy(ROWS))
    (tmp_path / "file").touch()
    monkeypatch.setenv("SYMADJ_DATA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set SYMADJ_DATA_CACHE"):
        load_table(spec())
