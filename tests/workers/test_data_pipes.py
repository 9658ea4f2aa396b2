"""Only regular files below the data roots are opened, whatever a file's links, or the entries of a folder, lead to.

Opening a pipe waits for somebody who writes into it, for ever perhaps. So each test reads in a process of its own, and
sees whether that opens the pipe.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from symadj.service.contract.data_summary import DataAnswer, DataQuestion
from symadj.service.contract.spec.data import FileData, FormatName, ParquetStreamData
from tests.workers.test_data_hdf5 import COUNTS, write_anndata

ROWS = np.random.default_rng(0).normal(size=(60, 2))
FORMATS = FormatName.__args__


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def was_opened(pipe: Path) -> bool:
    """Return whether somebody waits for a writer of ``pipe``."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody reads
            return False
        raise
    return True


def refusal(data: FileData | ParquetStreamData, root: Path, pipe: Path) -> str:
    """Return why a run would refuse ``data``, which it must find out without opening ``pipe``."""
    question = DataQuestion(data=data, roots=(str(root),)).model_dump_json()
    with subprocess.Popen(
        [sys.executable, "-m", "symadj.workers.inspect"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write(question)
        reader.stdin.close()
        while True:
            try:
                reader.wait(0.02)
                break
            except subprocess.TimeoutExpired:
                if was_opened(pipe):
                    reader.kill()
                    pytest.fail("the pipe was opened")
        refused = DataAnswer.model_validate_json(reader.stdout.read()).refused
    assert refused is not None
    return refused


def spec(path: str, **more: object) -> FileData:
    return FileData.model_validate({"kind": "file", "path": path, "batch_size": 1, **more})


@pytest.mark.parametrize("format", FORMATS)
def test_a_pipe_is_not_opened_as_a_file_of_any_format(format: str, tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "link").symlink_to(pipe)
    assert "link is not a regular file" in refusal(spec("link", format=format), tmp_path, pipe)


def test_a_pipe_in_a_folder_of_parquet_files_is_not_opened(tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "parts").mkdir()
    parquet.write_table(pyarrow.table({"a": ROWS[:, 0], "b": ROWS[:, 1]}), tmp_path / "parts/0.parquet")
    (tmp_path / "parts/1.parquet").symlink_to(pipe)
    data = ParquetStreamData.model_validate(
        {"kind": "parquet_stream", "path": "parts", "batch_size": 1, "validation_rows": 2, "test_rows": 2}
    )
    assert "parts/1.parquet is not a regular file" in refusal(data, tmp_path, pipe)


def link_out(file: h5py.File, pipe: Path) -> None:
    file["rows"] = h5py.ExternalLink(str(pipe), "rows")


def link_to_a_link_out(file: h5py.File, pipe: Path) -> None:
    file["deep/out"] = h5py.ExternalLink(str(pipe), "/")
    file["deep/inner"] = h5py.SoftLink("out/rows")
    file["rows"] = h5py.SoftLink("/deep/inner")


def folder_that_is_a_link_out(file: h5py.File, pipe: Path) -> None:
    file["out"] = h5py.ExternalLink(str(pipe), "/")
    file["rows"] = h5py.SoftLink("out/rows")


def virtual(file: h5py.File, pipe: Path) -> None:
    layout = h5py.VirtualLayout((60, 2), "f8")
    layout[:] = h5py.VirtualSource(str(pipe), "rows", (60, 2))
    file.create_virtual_dataset("rows", layout)


def virtual_without_end(file: h5py.File, pipe: Path) -> None:
    layout = h5py.VirtualLayout((60, 2), "f8", maxshape=(None, 2))
    source = h5py.VirtualSource(str(pipe), "rows", (60, 2), maxshape=(None, 2))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("rows", layout)


def external_values(file: h5py.File, pipe: Path) -> None:
    file.create_dataset("rows", (60, 2), "f8", external=[(str(pipe), 0, 60 * 16)])


@pytest.mark.parametrize(
    ("write", "key"),
    [
        (link_out, "rows"),
        (link_to_a_link_out, "rows"),
        (folder_that_is_a_link_out, "rows"),
        (virtual, "rows"),
        (virtual_without_end, None),
        (external_values, None),
    ],
)
def test_what_hdf5_has_in_another_file_is_refused_before_that_is_opened(
    write: Callable[[h5py.File, Path], None], key: str | None, tmp_path: Path, pipe: Path
) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        write(file, pipe)
    assert "'rows' lies in another file" in refusal(spec("rows.h5", key=key), tmp_path, pipe)


@pytest.mark.parametrize("column", ["n", "nullable"])
def test_nor_is_a_part_of_a_table_in_hdf5(column: str, tmp_path: Path, pipe: Path) -> None:
    write_anndata(tmp_path, COUNTS)
    with h5py.File(tmp_path / "rows.h5", "a") as file:
        if column == "nullable":
            file["obs"].attrs["column-order"] = [*file["obs"].attrs["column-order"], column]
            file.create_group(f"obs/{column}").attrs["encoding-type"] = "nullable-integer"
            file[f"obs/{column}/mask"] = np.zeros(60, bool)
        else:
            del file["obs/n"]
        file["obs/n" if column == "n" else f"obs/{column}/values"] = h5py.ExternalLink(str(pipe), "n")
    words = refusal(spec("rows.h5", key="obs", columns=[column]), tmp_path, pipe)
    assert "lies in another file" in words


def test_a_link_of_hdf5_within_the_file_is_followed_and_one_to_itself_is_refused(tmp_path: Path, pipe: Path) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["deep/array"] = ROWS
        file["rows"] = h5py.SoftLink("deep/array")
        file["loop"] = h5py.SoftLink("/loop")
        file["empty"] = h5py.SoftLink("/nothing")
    for key, words in (("loop", "more than 32 links"), ("empty", "has no array 'empty', it has: deep/array")):
        assert words in refusal(spec("rows.h5", key=key), tmp_path, pipe)
    # Read, and refused for the batch alone.
    assert "batch_size 1000" in refusal(spec("rows.h5", key="rows", batch_size=1000), tmp_path, pipe)
