"""Tables with named columns, csv and parquet: how people write them, and what is refused with its place."""

from __future__ import annotations

import decimal
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
from symadj.workers.data.formats.parquet import read_parquet
from symadj.workers.data.formats.raw import InputFile
from symadj.workers.data.stream import ParquetRows
from tests.workers.loading import load_data, load_table, roots

ROWS = np.random.default_rng(0).normal(size=(50, 3))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


def spec(path: str, **more: Any) -> FileData:
    return FileData.model_validate({"kind": "file", "path": path, "batch_size": 20, **more})


def stream_spec(path: str, **more: Any) -> ParquetStreamData:
    sizes = {"batch_size": 10, "validation_rows": 2, "test_rows": 2}
    return ParquetStreamData.model_validate({"kind": "parquet_stream", "path": path, **sizes, **more})


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
        (pa.array([1, 2, 3], pa.timestamp("us")), r"holds timestamp\[us\], not numbers", None),
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


FRAME = pd.DataFrame(ROWS[:, :2], columns=["a", "b"])
INDICES: dict[str, pd.Index] = {
    "a range in the footer": pd.RangeIndex(5, 55, name="cell"),
    "whole numbers with a name": pd.Index(np.arange(50)[::-1] * 3, name="cell"),
    "whole numbers without one": pd.Index(np.arange(50)[::-1] * 3),
    "texts": pd.Index([f"c{n}" for n in range(50)], name="cell"),
    "levels": pd.MultiIndex.from_product([range(25), [0.5, 1.5]], names=["donor", "cell"]),
    "levels without names": pd.MultiIndex.from_product([range(25), [0.5, 1.5]]),
}


@pytest.mark.parametrize("kind", INDICES)
def test_an_index_that_pandas_stored_is_left_out(root: Path, kind: str) -> None:
    FRAME.set_axis(INDICES[kind]).to_parquet(root / "indexed.parquet")
    raw = read_parquet(InputFile(root / "indexed.parquet", "indexed.parquet"))
    assert raw.columns == ("a", "b")
    np.testing.assert_array_equal(raw.values, FRAME)
    stored = [name for name in pq.read_schema(root / "indexed.parquet").names if name not in ("a", "b")]
    assert raw.notes == tuple(f"column {name!r}, pandas' stored index, was left out" for name in stored)
    streamed = ParquetRows(stream_spec("indexed.parquet"), roots())
    assert (streamed.columns, streamed.notes) == (raw.columns, raw.notes)


def test_a_stored_index_is_read_where_it_is_named(root: Path) -> None:
    FRAME.set_axis(INDICES["levels"]).to_parquet(root / "indexed.parquet")
    table = load_table(spec("indexed.parquet", columns=["a"], context_columns=["donor"]))
    np.testing.assert_array_equal(table.context[:, 0], np.repeat(np.arange(25), 2))
    FRAME.set_axis(INDICES["a range in the footer"]).to_parquet(root / "range.parquet")
    for data in (spec("range.parquet", columns=["cell", "a"]), stream_spec("range.parquet", columns=["cell", "a"])):
        with pytest.raises(DataError, match=r"pandas' index: the file holds its range alone .start 5, stop 55, step 1"):
            load_data(data)


def test_a_file_of_nothing_but_an_index_is_refused(root: Path) -> None:
    FRAME.set_index(["a", "b"]).to_parquet(root / "indexed.parquet")
    with pytest.raises(DataError, match=r"no columns but pandas' stored index .a, b."):
        load_table(spec("indexed.parquet"))
    assert load_table(spec("indexed.parquet", columns=["b"])).columns == ("b",)


LARGE = 2**53 + 1
WHOLE: dict[str, pa.Array] = {
    "int64": pa.array([1, -LARGE, *range(3, 9)], pa.int64()),
    "uint64": pa.array([1, 2**64 - 1, *range(3, 9)], pa.uint64()),
    "decimal": pa.array([decimal.Decimal(n) for n in (1, LARGE, *range(3, 9))], pa.decimal128(20, 0)),
    "decimal with a fraction": pa.array(
        [decimal.Decimal("1.5"), *(decimal.Decimal(n) for n in (LARGE, *range(3, 9)))], pa.decimal128(20, 1)
    ),
    "dictionary": pa.array([1, LARGE, *range(3, 9)]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("beside", [pa.array(np.arange(8)), pa.array(np.arange(8) / 2)], ids=["whole", "float"])
def test_whole_numbers_that_floating_point_rounds_are_refused(root: Path, kind: str, beside: pa.Array) -> None:
    pq.write_table(pa.table({"a": beside, "id": WHOLE[kind]}), root / "ids.parquet")
    for more in ({}, {"columns": ["a"], "context_columns": ["id"]}):
        for data in (spec("ids.parquet", **more), stream_spec("ids.parquet", batch_size=1, **more)):
            with pytest.raises(DataError, match=r"above 2\^53 are not exact") as caught:
                load_data(data)
            assert caught.value.place == {"file": "ids.parquet", "column": "id", "row": 1}


def test_whole_numbers_of_one_file_are_not_rounded_beside_fractions_of_another(root: Path) -> None:
    (root / "parts").mkdir()
    pq.write_table(pa.table({"id": pa.array([LARGE] * 30)}), root / "parts" / "0.parquet")
    pq.write_table(pa.table({"id": ROWS[:, 0]}), root / "parts" / "1.parquet")
    with pytest.raises(DataError, match=r"parts/0\.parquet, column 'id', row 0 .*above 2\^53 are not exact"):
        load_data(stream_spec("parts"))


def test_decimals_dictionaries_booleans_and_half_precision_are_numbers(root: Path) -> None:
    whole = np.arange(50) % 7
    columns = {
        "decimal": pa.array([decimal.Decimal(int(n)) / 8 for n in whole], pa.decimal128(20, 3)),
        "dictionary": pa.array(whole * 10).dictionary_encode(),
        "flag": pa.array(whole > 3),
        "flags": pa.array(whole > 2).dictionary_encode(),
        "half": pa.array(ROWS[:, 0].astype(np.float16)),
        "unsigned": pa.array(whole, pa.uint64()),
    }
    pq.write_table(pa.table(columns), root / "kinds.parquet", row_group_size=7)
    expected = np.stack([whole / 8, whole * 10, whole > 3, whole > 2, ROWS[:, 0].astype(np.float16), whole], 1)
    np.testing.assert_array_equal(load_table(spec("kinds.parquet")).rows, expected)
    streamed = ParquetRows(stream_spec("kinds.parquet"), roots())
    np.testing.assert_array_equal(np.concatenate([streamed.read(g).rows for g in streamed.groups]), expected)


def test_a_vector_is_as_many_columns_as_it_has_numbers(root: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 3)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS[:, :2].astype(np.float32).reshape(50, 2, 1))
    table = pa.table({"n": np.arange(50), "v": vectors, "t": tensors})
    pq.write_table(table, root / "vectors.parquet", row_group_size=20)
    read = load_table(spec("vectors.parquet"))
    assert read.columns == ("n", "v[0]", "v[1]", "v[2]", "t[0]", "t[1]")
    np.testing.assert_array_equal(read.rows, np.c_[np.arange(50), ROWS, ROWS[:, :2].astype(np.float32)])
    chosen = {"columns": ["v[2]", "n"], "context_columns": ["v[0]"]}
    read = load_table(spec("vectors.parquet", **chosen))
    np.testing.assert_array_equal(np.c_[read.rows, read.context], np.c_[ROWS[:, 2], np.arange(50), ROWS[:, 0]])
    streamed = ParquetRows(stream_spec("vectors.parquet", **chosen), roots())
    part = streamed.read(streamed.groups[1])
    np.testing.assert_array_equal(np.c_[part.rows, part.context], np.c_[read.rows, read.context][20:40])
    with pytest.raises(DataError, match=r"no column 'v'; it has: n, v\[0\]"):
        load_table(spec("vectors.parquet", columns=["v"]))


@pytest.mark.parametrize(
    ("vectors", "column", "row"),
    [([[1.0, 2.0], None, [3.0, 4.0]], "v", 1), ([[1.0, 2.0], [3.0, 4.0], [3.0, None]], "v[1]", 2)],
)
def test_a_vector_that_lacks_something_is_refused(root: Path, vectors: list[Any], column: str, row: int) -> None:
    pq.write_table(pa.table({"v": pa.array(vectors, pa.list_(pa.float64(), 2))}), root / "vectors.parquet")
    with pytest.raises(DataError, match="the value is missing") as caught:
        load_table(spec("vectors.parquet"))
    assert caught.value.place == {"file": "vectors.parquet", "column": column, "row": row}


def test_numbers_that_stand_for_something_else_are_refused(root: Path) -> None:
    pd.DataFrame({"p": pd.period_range("2020", periods=8, freq="D")}).to_parquet(root / "periods.parquet")
    # A type that Arrow does not know is read as the numbers that it is stored as; so are periods without pandas.
    field = pa.field("p", pa.int64(), metadata={"ARROW:extension:name": "somebodys.date"})
    pq.write_table(pa.table([pa.array(range(8))], schema=pa.schema([field])), root / "dates.parquet")
    for name, words in (("periods.parquet", r"pandas\.period"), ("dates.parquet", r"somebodys\.date")):
        for data in (spec(name), stream_spec(name, batch_size=1)):
            with pytest.raises(DataError, match=rf"column 'p': holds .*{words}.*, not numbers"):
                load_data(data)


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
