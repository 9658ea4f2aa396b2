"""What a user is told of the data as they were read: figures that are right, types, notes, what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydantic import TypeAdapter

from symadj.service.contract.data_summary import MAX_COLUMNS, ColumnSummary, DataSummary, SourceSummary
from symadj.service.contract.spec.data import BUILTIN_ROWS, Data
from symadj.workers.data import DataError, DataRoots, load_data, table
from symadj.workers.data.summary import ColumnStatistics, in_words
from tests.workers.fcs_files import Channel, FcsFile
from tests.workers.test_data_files import NAMES, ROWS, WRITERS

RNG = np.random.default_rng(0)


def summary_of(folder: Path, **data: Any) -> DataSummary:
    """What a run says of data before it checks them; whether it refuses them does not matter."""
    told: list[DataSummary] = []
    spec: Data = TypeAdapter(Data).validate_python({"batch_size": 2} | data)
    try:
        load_data(spec, DataRoots([str(folder)]), told.append)
    except DataError:
        assert told, "refused before anything was said"
    (summary,) = told
    return summary


def source_of(folder: Path, path: str, **data: Any) -> SourceSummary:
    (source,) = summary_of(folder, **{"kind": "file", "path": path} | data).sources
    return source


def figures(column: ColumnSummary) -> tuple[float | None, float | None, float | None, float, int]:
    return column.min, column.mean, column.max, column.zeros, column.not_finite


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_says_what_the_columns_hold_and_the_type_that_the_file_has(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    source = source_of(tmp_path, name)
    assert (source.name, source.rows, source.dim) == (name, 200, 3)
    named = name.endswith((".csv", ".csv.gz", ".parquet", ".fcs"))
    assert [column.name for column in source.columns] == (NAMES if named else ["x0", "x1", "x2"])
    for column, values in zip(source.columns, ROWS.T, strict=True):
        assert column.dtype == ("float32" if name == "rows.fcs" else "float64")
        assert (column.min, column.max) == pytest.approx((values.min(), values.max()), rel=1e-6)
        assert column.mean == pytest.approx(values.mean(), abs=1e-6)
        assert (column.zeros, column.not_finite, column.remarks) == (0, 0, [])


# The largest number there is, as a file's mark of a missing value may be.
LARGEST = np.finfo(np.float64).max


@settings(deadline=None)
@example(rows=np.array([[0.0]] + 8 * [[LARGEST]]), cuts=[6])
@example(rows=np.array(3 * [[LARGEST]]), cuts=[])
@example(rows=np.array(3 * [[-LARGEST]] + 6 * [[LARGEST]]), cuts=[3])
@given(
    rows=arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]), array_shapes(min_dims=2, max_dims=2, max_side=9)
    ),
    cuts=st.lists(st.integers(0, 9), max_size=3),
)
def test_the_figures_are_those_of_the_finite_values_however_the_rows_are_cut(
    rows: np.ndarray[Any, Any], cuts: list[int]
) -> None:
    statistics = ColumnStatistics(rows.shape[1])
    for piece in np.split(rows, sorted(cuts)):
        statistics.see(piece)
    names = [str(place) for place in range(rows.shape[1])]
    for column, values in zip(statistics.columns(names, names), rows.astype(np.float64).T, strict=True):
        finite = [value for value in values.tolist() if math.isfinite(value)]
        assert column.not_finite == len(values) - len(finite)
        assert column.zeros == pytest.approx(np.mean(values == 0))
        assert (column.min, column.max) == ((min(finite), max(finite)) if finite else (None, None))
        if not finite:
            assert column.mean is None
            continue
        exact = float(sum(map(Fraction, finite)) / len(finite))
        assert column.mean == pytest.approx(exact, rel=1e-12, abs=1e-14 * max(map(abs, finite)))


def test_means_do_not_lose_digits_to_the_type_of_the_file_or_to_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_PIECE_VALUES", 1000)
    values = (1e6 + RNG.random((30_001, 1))).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    (column,) = source_of(tmp_path, "x.npy").columns
    assert column.dtype == "float32"
    assert column.mean == pytest.approx(math.fsum(values[:, 0].tolist()) / len(values), rel=1e-14)


def test_values_that_are_not_finite_are_counted_before_the_run_refuses_them(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, np.nan], [0.0, 2.0], [3.0, np.inf], [4.0, np.nan]]))
    first, second = source_of(tmp_path, "x.npy").columns
    assert figures(first) == (0.0, 2.0, 4.0, 0.25, 0)
    assert figures(second) == (2.0, 2.0, 2.0, 0.0, 3)
    assert "3 not finite" in second.remarks


def test_what_looks_wrong_is_remarked_on(tmp_path: Path) -> None:
    columns = np.column_stack(
        [np.full(100, 7.0), RNG.random(100) * (np.arange(100) > 60), RNG.random(100) * 1e8, RNG.random(100) + 1]
    )
    np.save(tmp_path / "x.npy", columns)
    source = source_of(tmp_path, "x.npy")
    assert [column.remarks for column in source.columns] == [["constant"], ["mostly zeros"], [], []]
    assert ["'x2'" in remark and "'x1'" in remark for remark in source.remarks] == [True]
    words = in_words(summary_of(tmp_path, kind="file", path="x.npy"))
    assert "100 rows of 4 values from x.npy" in words
    assert "'x0' (constant)" in words
    np.save(tmp_path / "usual.npy", np.column_stack([RNG.normal(size=100) * 1e5, RNG.normal(size=100)]))
    assert source_of(tmp_path, "usual.npy").remarks == []


def dependent_columns() -> dict[str, np.ndarray[Any, Any]]:
    """A column by itself, a class as one of three columns, and a sum beside its parts, which differ in size."""
    kind, (alone, first, second) = RNG.integers(0, 3, 300), RNG.normal(size=(3, 300)).astype(np.float32)
    of_kind = {f"kind_{name}": (kind == name).astype(np.uint8) for name in range(3)}
    return {"alone": alone, **of_kind, "first": first, "second": 1e4 * second, "sum": 3 + first + 1e4 * second}


@pytest.mark.parametrize(
    "how", [{"kind": "file", "format": "parquet"}, {"kind": "parquet_stream", "validation_rows": 9, "test_rows": 9}]
)
def test_columns_that_depend_on_each_other_are_named_when_the_data_are_read(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    pq.write_table(pa.table(dependent_columns()), tmp_path / "x.parquet", row_group_size=70)
    summary = summary_of(tmp_path, path="x.parquet", **how)
    told = [remark.partition(";")[0] for remark in summary.sources[0].remarks if "no density" in remark]
    assert told == [
        "linearly dependent columns: 'kind_0', 'kind_1', 'kind_2'",
        "linearly dependent columns: 'first', 'second', 'sum'",
    ]
    assert "'kind_0', 'kind_1', 'kind_2'" in in_words(summary), "the event data_read"


@pytest.mark.parametrize(
    "apart",
    [
        {"columns": ["alone", "kind_0", "kind_1", "first", "second"]},
        {"columns": ["alone", "first"], "context_columns": ["kind_0", "kind_1", "kind_2"]},
        {"transforms": [{"kind": "dequantise", "levels": 2}], "columns": ["kind_0", "kind_1", "kind_2"]},
    ],
    ids=["one of them left out", "as a context", "with noise"],
)
def test_columns_are_not_named_where_what_is_left_of_them_has_a_density(tmp_path: Path, apart: dict[str, Any]) -> None:
    pq.write_table(pa.table(dependent_columns()), tmp_path / "x.parquet")
    assert source_of(tmp_path, "x.parquet", format="parquet", **apart).remarks == []


def test_columns_and_context_come_in_the_order_of_the_spec_each_with_its_type(tmp_path: Path) -> None:
    columns = {"a": np.arange(50, dtype=np.int16), "b": RNG.random(50), "flag": np.arange(50) % 2 == 0}
    pq.write_table(pa.table({**columns, "name": ["x"] * 50, "half": RNG.random(50).astype(np.float16)}), tmp_path / "p")
    chosen = {"format": "parquet", "columns": ["half", "flag", "b"], "context_columns": ["a"]}
    source = source_of(tmp_path, "p", **chosen)
    described = [(column.name, column.dtype, column.context) for column in source.columns]
    of_flow = [("half", "float16", False), ("flag", "bool", False), ("b", "float64", False)]
    assert described == [*of_flow, ("a", "int16", True)]
    assert (source.columns[-1].max, source.columns[1].mean) == (49, 0.5)


def test_the_file_with_the_test_rows_is_described_by_itself(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", RNG.normal(size=(100, 1)))
    np.save(tmp_path / "test.npy", (1000 * RNG.normal(size=(50, 1))).astype(np.float32))
    train, test = summary_of(tmp_path, kind="file", path="train.npy", test_path="test.npy").sources
    assert (train.name, train.rows, test.name, test.rows) == ("train.npy", 100, "test.npy", 50)
    assert (train.columns[0].dtype, test.columns[0].dtype) == ("float64", "float32")
    assert train.columns[0].max is not None
    assert test.columns[0].max is not None
    assert train.columns[0].max < 10 < test.columns[0].max


def write_fcs(folder: Path) -> dict[str, Any]:
    channels = [
        Channel("A", "I", 16, {"R": "1024", "E": "4,1"}),
        Channel("B", "I", 16, {"R": "1024", "E": "0,0", "G": "2"}),
        Channel("Time", "I", 32, {"R": "1024", "E": "0,0"}),
    ]
    rows = [(0, 2, 10), (1023, 4, 20), (512, 6, 30)]
    spillover = {"TIMESTEP": "0.1", "SPILLOVER": "2,A,B,1,0,0,1"}
    (folder / "x.fcs").write_bytes(FcsFile(rows, channels, keywords=spillover).content())
    return {"path": "x.fcs", "compensate": True}


def write_packed(folder: Path) -> dict[str, Any]:
    with h5py.File(folder / "x.h5", "w") as file:
        packed = file.create_dataset("x", data=np.array([[0], [100], [200]], np.int16))
        packed.attrs["scale_factor"], packed.attrs["add_offset"] = 0.5, 10.0
    return {"path": "x.h5"}


def write_indexed(folder: Path) -> dict[str, Any]:
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0]}, index=pd.Index([7, 8, 9], name="id"))
    frame.to_parquet(folder / "x.parquet")
    return {"path": "x.parquet"}


@pytest.mark.parametrize(
    ("write", "dtypes", "highest", "notes"),
    [
        (
            write_fcs,
            ["uint16", "uint16", "uint32"],
            [10 ** (4 * 1023 / 1024), 3.0, 3.0],
            ["decades", "gain", "TIMESTEP", "SPILLOVER"],
        ),
        (write_packed, ["int16"], [110.0], ["scale_factor 0.5", "add_offset 10"]),
        (write_indexed, ["float64"], [3.0], ["'id', pandas' stored index, was left out"]),
    ],
)
def test_what_was_applied_while_reading_is_said_and_the_figures_are_those_after_it(
    tmp_path: Path, write: Callable[[Path], dict[str, Any]], dtypes: list[str], highest: list[float], notes: list[str]
) -> None:
    source = source_of(tmp_path, **write(tmp_path))
    assert [column.dtype for column in source.columns] == dtypes
    assert [column.max for column in source.columns] == pytest.approx(highest)
    for part in notes:
        assert any(part in note for note in source.notes), source.notes


def test_images_are_described_by_channel(tmp_path: Path) -> None:
    images = RNG.integers(1, 200, (50, 3, 4, 5), np.uint8)
    images[:, 1] = 0
    np.save(tmp_path / "x.npy", images)
    summary = summary_of(tmp_path, kind="file", path="x.npy")
    (source,) = summary.sources
    assert summary.image == (3, 4, 5)
    assert (source.rows, source.dim, len(source.columns)) == (50, 60, 3)
    for channel, column in enumerate(source.columns):
        values = images[:, channel].astype(float)
        assert figures(column) == pytest.approx(
            (values.min(), values.mean(), values.max(), float(channel == 1), 0), rel=1e-12
        )
        assert column.dtype == "uint8"
    assert [transform["kind"] for transform in summary.transforms] == ["dequantise", "logit"]


def test_a_stream_is_described_by_all_of_its_rows_and_says_what_its_folders_name(tmp_path: Path) -> None:
    values = RNG.normal(size=(120, 2))
    for donor in range(3):
        (tmp_path / "rows" / f"donor={donor}").mkdir(parents=True)
        part = values[donor * 40 : donor * 40 + 40]
        columns = {"a": part[:, 0], "b": part[:, 1].astype(np.float32)}
        pq.write_table(pa.table(columns), tmp_path / "rows" / f"donor={donor}" / "x.parquet", row_group_size=15)
    sizes = {"validation_rows": 10, "test_rows": 10, "context_columns": ["donor"]}
    summary = summary_of(tmp_path, kind="parquet_stream", path="rows", **sizes)
    (source,) = summary.sources
    assert (source.rows, source.dim) == (120, 3)
    described = [(column.name, column.dtype, column.context) for column in source.columns]
    assert described == [("a", "float64", False), ("b", "float32", False), ("donor", "folder's name", True)]
    a, _, donors = source.columns
    assert figures(a) == pytest.approx((values[:, 0].min(), values[:, 0].mean(), values[:, 0].max(), 0, 0), rel=1e-12)
    assert figures(donors) == pytest.approx((0, 1, 2, 1 / 3, 0))
    assert source.notes == ["the rows are those of 3 files", "column 'donor' was taken from the names of the folders"]


@pytest.mark.parametrize("name", BUILTIN_ROWS)
def test_built_in_sets_are_described_by_their_names(tmp_path: Path, name: str) -> None:
    (source,) = summary_of(tmp_path, kind="builtin", name=name).sources
    assert (source.name, source.rows, source.format) == (name, BUILTIN_ROWS[name], None)  # type: ignore[index]


def test_a_table_of_very_many_columns_is_described_by_the_first_of_them(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RNG.random((5, MAX_COLUMNS + 7), np.float32))
    source = source_of(tmp_path, "x.npy")
    assert (source.dim, len(source.columns)) == (MAX_COLUMNS + 7, MAX_COLUMNS)


def test_a_set_of_the_literature_is_described_as_its_preprocessing_leaves_it(tmp_path: Path) -> None:
    rows = RNG.normal(size=(300, 3))
    rows[5, 0] = -999.0
    np.save(tmp_path / "data.npy", rows)
    summary = summary_of(tmp_path, kind="maf", name="miniboone", path=".")
    (source,) = summary.sources
    assert (source.name, source.rows, source.columns[0].min) == ("data.npy", 299, np.delete(rows, 5, 0)[:, 0].min())
    assert "as in the literature" in source.notes[0]
    assert summary.transforms == [{"kind": "standardise"}]


def test_a_stream_that_is_refused_is_described_up_to_there(tmp_path: Path) -> None:
    values = RNG.normal(size=100)
    values[55] = np.nan
    pq.write_table(pa.table({"a": values}), tmp_path / "x.parquet", row_group_size=20)
    sizes = {"validation_rows": 10, "test_rows": 10}
    (source,) = summary_of(tmp_path, kind="parquet_stream", path="x.parquet", **sizes).sources
    assert (source.rows, source.columns[0].not_finite) == (60, 1)
    assert source.columns[0].max == np.nanmax(values[:60])
    assert source.notes == ["only the first 60 of 100 rows were read"]
