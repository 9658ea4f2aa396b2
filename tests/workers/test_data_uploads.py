"""Files that users have sent, as runs read them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from symadj.service.contract.spec.data import FileData, ParquetStreamData
from symadj.service.contract.storage import Storage
from symadj.service.contract.uploaded import UploadedFile
from symadj.workers.data import DataError, DataRoots, load_data, load_table

ROWS = np.random.default_rng(0).normal(size=(100, 2))
PATH = "upl-01m81p4tjxp2pr8w/cells.npy"


def npy(rows: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def sent(storage: Storage, path: str, content: bytes) -> UploadedFile:
    """Store a file as the API does."""
    storage.write(path, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return UploadedFile(path=path, storage=storage.location, bytes=len(content), sha256=sha256)


def spec(path: str = PATH) -> FileData:
    return FileData.model_validate({"kind": "file", "path": path, "batch_size": 20})


def test_a_run_reads_the_uploads_that_it_is_told_of_and_no_other_file_of_the_storage(
    storage: Storage, tmp_path: Path
) -> None:
    upload, other = sent(storage, PATH, npy(ROWS)), sent(storage, "job-1/artifacts/1/rows.npy", npy(ROWS))
    (tmp_path / "root" / "cells").mkdir(parents=True)
    np.save(tmp_path / "root" / "cells" / "own.npy", -ROWS)
    roots = DataRoots([str(tmp_path / "root")], tmp_path / "copies", uploads=[upload])
    assert np.array_equal(load_table(spec(), roots).rows, ROWS)
    assert np.array_equal(load_table(spec("cells/own.npy"), roots).rows, -ROWS)
    with pytest.raises(DataError, match="was not found below a data root"):
        load_table(spec(other.path), roots)
    with pytest.raises(DataError, match="was not found below a data root"):
        load_table(spec(), DataRoots([str(tmp_path / "root")], tmp_path / "copies"))


def test_an_upload_that_is_not_what_was_sent_is_refused(storage: Storage, tmp_path: Path) -> None:
    upload = sent(storage, PATH, npy(ROWS))
    for content, told in ((npy(ROWS)[:-1], "is not what was sent"), (npy(-ROWS), "is not what was sent")):
        storage.write(PATH, content)
        with pytest.raises(DataError, match=told) as refused:
            load_table(spec(), DataRoots((), tmp_path / "copies", uploads=[upload]))
        assert refused.value.place["file"] == PATH
    storage.remove_file(PATH)
    with pytest.raises(DataError, match="is gone from"):
        load_table(spec(), DataRoots((), tmp_path / "copies", uploads=[upload]))


def test_a_parquet_file_that_was_sent_is_streamed(storage: Storage, tmp_path: Path) -> None:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"a": ROWS[:, 0], "b": ROWS[:, 1]}), stream, row_group_size=30)
    upload = sent(storage, "upl-01m81p4tjxp2pr8w/cells.pq", stream.getvalue())
    data = ParquetStreamData.model_validate({"kind": "parquet_stream", "path": upload.path, "batch_size": 20})
    assert load_data(data, DataRoots((), tmp_path / "copies", uploads=[upload])).training_rows == 80
