"""Bounds of what a file may take of memory, and how much it may unpack to."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from symadj.service.contract.spec.data import Data, FileData, ParquetStreamData
from symadj.workers.data import DataError, DataRoots, load_data
from symadj.workers.data.formats import raw

ROWS = np.random.default_rng(0).integers(0, 9, (100_000, 3)).astype(float)  # 2.3 MiB
BUDGET = 2**20


def idx() -> bytes:
    return struct.pack(">BBBB2I", 0, 0, 0x0E, 2, *ROWS.shape) + ROWS.astype(">f8").tobytes()


def csv() -> bytes:
    return b"a,b,c\n" + b"".join(b"%d,%d,%d\n" % tuple(row) for row in ROWS)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", data=ROWS, compression="gzip")


def write_parquet(path: Path) -> None:
    parquet.write_table(pyarrow.table(dict(zip("abc", ROWS.T, strict=True))), path)


LARGE: dict[str, Callable[[Path], object]] = {
    "rows.npy": lambda path: np.save(path, ROWS),
    "rows.npz": lambda path: np.savez_compressed(path, rows=ROWS),
    "rows.csv": lambda path: path.write_bytes(csv()),
    "rows.csv.gz": lambda path: path.write_bytes(gzip.compress(csv())),
    "rows.idx": lambda path: path.write_bytes(idx()),
    "rows.idx.gz": lambda path: path.write_bytes(gzip.compress(idx())),
    "rows.h5": write_hdf5,
    "rows.parquet": write_parquet,
}


def spec(name: str, **more: object) -> FileData:
    return FileData.model_validate({"kind": "file", "path": name, "batch_size": 1, **more})


def stream(name: str) -> ParquetStreamData:
    return ParquetStreamData.model_validate(
        {"kind": "parquet_stream", "path": name, "batch_size": 1, "validation_rows": 2, "test_rows": 2}
    )


def refusal(data: Data, root: Path, budget: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_data(data, DataRoots([str(root)], budget=budget))
    assert caught.value.place["file"] == data.path  # type: ignore[union-attr]
    return str(caught.value)


@pytest.mark.parametrize("name", LARGE)
def test_a_file_larger_than_the_jobs_memory_budget_is_refused_with_both_sizes(name: str, tmp_path: Path) -> None:
    LARGE[name](tmp_path / name)
    words = refusal(spec(name), tmp_path, BUDGET)
    assert "MiB of memory or more, resources.memory_budget is 1 MiB: raise it, or store it as parquet" in words


def test_a_row_group_of_a_stream_larger_than_the_budget_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet")
    words = refusal(stream("rows.parquet"), tmp_path, BUDGET)
    assert "takes 2.289 MiB of memory or more, resources.memory_budget is 1 MiB: raise it, or write it with" in words


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.idx.gz"])
def test_a_gzipped_file_that_unpacks_to_far_more_than_such_files_do_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "_UNPACKED_BYTES", BUDGET)
    content = {"rows.csv.gz": b"a,b\n" + b"1,2\n" * 1_000_000, "rows.idx.gz": idx()[:12] + bytes(2_400_000)}[name]
    (tmp_path / name).write_bytes(gzip.compress(content))
    words = refusal(spec(name), tmp_path)
    assert "unpacks to more than 1" in words
    assert "a gzipped file may unpack to 1 MiB, or to 100 times its size. If it is what you mean" in words


@pytest.mark.parametrize("packed", [False, True])
def test_a_csv_file_of_blank_lines_is_not_read_to_its_end_for_a_row(packed: bool, tmp_path: Path) -> None:
    content = b"a,b\n" + b"\r\n" * 2_500_000
    name = "rows.csv.gz" if packed else "rows.csv"
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert "has no two rows in its first 4 MiB" in refusal(spec(name), tmp_path)


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz", "rows.h5"])
def test_more_columns_than_can_be_handled_are_refused_with_their_number(name: str, tmp_path: Path) -> None:
    wide = np.zeros((1, 1_000_001), np.uint8)
    if name == "rows.h5":
        with h5py.File(tmp_path / name, "w") as file:
            file["rows"] = wide
    else:
        (np.save if name == "rows.npy" else np.savez_compressed)(tmp_path / name, wide)
    assert "has 1,000,001 columns, at most 1,000,000 can be read" in refusal(spec(name), tmp_path)


def test_memory_that_runs_out_after_the_file_was_read_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    LARGE["rows.npy"](tmp_path / "rows.npy")
    monkeypatch.setattr("symadj.workers.data.load.prepare", no_memory)
    assert "rows.npy does not fit into the memory of its node" in refusal(spec("rows.npy"), tmp_path)
