"""Tables with named columns, csv and parquet: how people write them, and what is refused with its place."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from symadj.service.contract.spec.data import FileData, ParquetStreamData
from symadj.workers.data import DataError
from tests.workers.loading import load_data, load_table

ROWS = np.random.default_rng(0).normal(size=(50, 3))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def spec(path: str, **more: Any) -> FileData:
    return FileData.model_validate({"kind": "file", "path": path, "batch_size": 20, **more})


@pytest.mark.parametrize(
    ("lines", "words", "place"),
    [
        (["1,2", "3,x"], "'x' is not a number", {"column": "b", "row": 1}),
        (["1,2", "3"], "1 values, where 2 are expected", {"row": 1}),
        (["1,2,3"], "3 values, where 2 are expected", {"row": 0}),
        ([], "has no rows", {}),
    ],
)
def test_a_bad_csv_row_is_named(root: Path, lines: list[str], words: str, place: dict[str, Any]) -> None:
    (root / "bad.csv").write_text("\n".join(["a,b", *lines]) + "\n")
    with pytest.raises(DataError, match=words) as caught:
        load_table(spec("bad.csv"))
    assert caught.value.place == {"file": "bad.csv", **place}


def test_a_bad_cell_is_named_where_columns_are_chosen_and_lines_are_blank(root: Path) -> None:
    (root / "gaps.csv").write_text('\n\n"a, raw",b,c\n1,2,3\n\n4,5,x\n')
    np.testing.assert_array_equal(load_table(spec("gaps.csv", columns=["b", "a, raw"])).rows, [[2, 1], [5, 4]])
    with pytest.raises(DataError, match="'x' is not a number") as caught:
        load_table(spec("gaps.csv", columns=["c", "b"]))
    assert caught.value.place == {"file": "gaps.csv", "column": "c", "row": 1}


def test_a_csv_file_without_a_header_is_noticed_and_can_be_read(root: Path) -> None:
    (root / "plain.csv").write_text("1,2\n3,4\n")
    with pytest.raises(DataError, match=r"set data\.header to false"):
        load_table(spec("plain.csv"))
    np.testing.assert_array_equal(load_table(spec("plain.csv", header=False)).rows, [[1, 2], [3, 4]])


def test_an_empty_cell_is_refused_with_its_place(root: Path) -> None:
    lines = ["a,b", *(f"{i},{i}" for i in range(50)), "1,", *(f"{i},{i}" for i in range(50))]
    (root / "hole.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"row 50 .from 0., column 'b' of hole\.csv is nan") as caught:
        load_data(spec("hole.csv"))
    assert caught.value.place == {"file": "hole.csv", "column": "b", "row": 50}


@pytest.mark.parametrize(
    ("column", "words", "row"),
    [
        (pa.array(["x"] * 3), "holds string, not numbers", None),
        (pa.array([1, 2, 3], pa.timestamp("s")), r"holds timestamp\[s\], not numbers", None),
        (pa.array([[1.0], [2.0], [3.0]]), "holds list.*, not numbers.* store vectors of one length", None),
        (pa.nulls(3), "every value is missing", None),
        (pa.array([1.0, None, 2.0]), "the value is missing", 1),
    ],
)
def test_a_bad_parquet_column_is_named(root: Path, column: pa.Array, words: str, row: int | None) -> None:
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0], "b": column}), root / "bad.parquet")
    with pytest.raises(DataError, match=words) as caught:
        load_table(spec("bad.parquet"))
    assert caught.value.place == {"file": "bad.parquet", "column": "b"} | ({} if row is None else {"row": row})


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa,b\n1,2\n3,4\n",
        b"a,b\r\n1,2\r\n\r\n3,4\r\n",
        b'"a","b"\n"1","2"\n"3","4"',
        b"a,b\n 1, 2\n3 ,4.0e0\n",
        gzip.compress(b"a,b\n1,2\n3,4\n"),
    ],
    ids=["byte order mark", "Windows", "quoted", "spaces", "gzipped, whatever its name"],
)
def test_csv_is_read_as_programs_write_it(root: Path, content: bytes) -> None:
    (root / "rows.csv").write_bytes(content)
    table = load_table(spec("rows.csv"))
    assert table.columns == ("a", "b")
    np.testing.assert_array_equal(table.rows, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a;b\n1,5;2,5\n", "semicolons in its first line: values are to be separated by commas"),
        ("a\tb\n1\t2\n", "tabs in its first line"),
        ("0,1\n0.5,1.5\n", r"numbers in its first line.* set data\.header to false; if they are names .*give others"),
        (",a\n0,1.5\n", r"column 0 .from 0. has no name .pandas writes its index so"),
        ("a,b,\n1,2,\n", r"column 2 .from 0. has no name"),
        ("a,a\n1,2\n", "more than one column 'a'"),
    ],
)
def test_a_header_that_means_something_else_is_explained(root: Path, content: str, words: str) -> None:
    (root / "odd.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        load_table(spec("odd.csv"))


def test_columns_beside_one_without_a_name_can_be_chosen(root: Path) -> None:
    pd.DataFrame(ROWS, columns=list("abc")).to_csv(root / "indexed.csv")
    np.testing.assert_allclose(load_table(spec("indexed.csv", columns=["c", "a"])).rows, ROWS[:, [2, 0]])


def test_an_index_of_pandas_is_no_column_unless_it_is_named(root: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=list("abc"))
    frame[frame["a"] > 0].to_parquet(root / "filtered.parquet")
    assert load_table(spec("filtered.parquet")).columns == ("a", "b", "c")
    named = load_table(spec("filtered.parquet", columns=["__index_level_0__"]))
    np.testing.assert_array_equal(named.rows[:, 0], np.flatnonzero(ROWS[:, 0] > 0))


def write_miscounted(path: Path, which: int) -> None:
    """Write 50 rows, of which the file's footer, or that of its only row group, tells that they are 60."""
    pq.write_table(pa.table({"a": ROWS[:, 0]}), path, use_dictionary=False, compression="none")
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # Thrift writes whole numbers doubled.
    counts = [place for place in range(footer, len(content) - 8) if content[place] == 2 * len(ROWS)]
    path.write_bytes(content[: counts[which]] + b"\x78" + content[counts[which] + 1 :])


@pytest.mark.parametrize("which", [0, -1], ids=["file", "row group"])
def test_parquet_that_announces_other_rows_than_it_holds_is_refused(root: Path, which: int) -> None:
    write_miscounted(root / "wrong.parquet", which)
    with pytest.raises(DataError, match=r"wrong\.parquet: does not hold the rows that it announces"):
        load_table(spec("wrong.parquet"))


def test_a_streamed_row_group_that_announces_other_rows_than_it_holds_is_refused(root: Path) -> None:
    write_miscounted(root / "wrong.parquet", -1)
    sizes = {"batch_size": 10, "validation_rows": 5, "test_rows": 5}
    data = ParquetStreamData.model_validate({"kind": "parquet_stream", "path": "wrong.parquet", **sizes})
    with pytest.raises(DataError, match=r"wrong\.parquet: does not hold the rows that it announces"):
        load_data(data)


def test_parquet_of_several_row_groups_and_types_keeps_rows_and_columns_together(root: Path) -> None:
    whole = np.arange(50, dtype=np.int32)
    pq.write_table(pa.table({"n": whole, "a": ROWS[:, 0]}), root / "rows.parquet", row_group_size=7)
    table = load_table(spec("rows.parquet", columns=["a"], context_columns=["n"]))
    np.testing.assert_array_equal(table.rows[:, 0], ROWS[:, 0])
    np.testing.assert_array_equal(table.context[:, 0], whole)
    missing = pa.table({"n": pa.array([*whole[:30].tolist(), None, *whole[31:].tolist()], pa.int32())})
    pq.write_table(missing, root / "missing.parquet", row_group_size=7)
    with pytest.raises(DataError, match="the value is missing") as caught:
        load_table(spec("missing.parquet"))
    assert caught.value.place["row"] == 30
