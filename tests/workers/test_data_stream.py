"""Parquet that is streamed: the same batches whatever was read before, within bounded memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symadj.service.contract.spec.data import ParquetStreamData
from symadj.workers.data import DataError, PreparedData
from symadj.workers.data.stream import ParquetRows, StreamBatches
from tests.workers.loading import load_data
from tests.workers.loading import roots as roots_of_test

TOTAL = 1000
VALUES = np.random.default_rng(0).normal([1.0, -5.0, 30.0], [1.0, 2.0, 0.1], (TOTAL, 3))
# The number of the row, so that a test can tell what it was given.
NUMBERS = np.arange(TOTAL, dtype=np.float64)


def write(folder: Path, values: np.ndarray = VALUES) -> None:
    """Two files with row groups of 70 and of 90 rows."""
    folder.mkdir(exist_ok=True)
    for name, begin, end, size in (("part-0", 0, 400, 70), ("part-1", 400, TOTAL, 90)):
        columns = {"row": NUMBERS[begin:end], **dict(zip("abc", values[begin:end].T, strict=True))}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=size)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roots")
    write(folder / "rows")
    return folder


@pytest.fixture(autouse=True)
def roots(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(root))


def spec(**more: Any) -> ParquetStreamData:
    given = {"kind": "parquet_stream", "path": "rows", "columns": ["row", "a", "b", "c"], "transforms": []}
    sizes = {"batch_size": 40, "validation_rows": 50, "test_rows": 30, "buffer_rows": 200}
    return ParquetStreamData.model_validate(given | sizes | more)


@pytest.fixture(scope="module")
def data(root: Path) -> PreparedData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMADJ_DATA_ROOTS", str(root))
        return load_data(spec())


def test_every_row_is_in_one_part_and_an_epoch_has_each_training_row_once(data: PreparedData) -> None:
    batches = data.batches(40, 3)
    assert (data.training_rows, batches.batches_per_epoch) == (920, 23)
    epochs = [[batches.batch(epoch * 23 + b) for b in range(23)] for epoch in range(2)]
    held_out = np.concatenate([data.validation.index, data.test.index])
    for epoch in epochs:
        seen = np.concatenate([batch.index for batch in epoch])
        assert sorted([*seen, *held_out]) == list(range(TOTAL))
        for batch in epoch:
            np.testing.assert_array_equal(batch.rows[:, 0], batch.index)
            np.testing.assert_array_equal(batch.rows[:, 1:], VALUES[batch.index])
    assert not np.array_equal(epochs[0][0].index, epochs[1][0].index)
    for part in (data.validation, data.test):
        np.testing.assert_array_equal(part.rows[:, 0], part.index)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.integers(0, 80), min_size=1, max_size=3),
    ranks=st.sampled_from([1, 2, 5]),
    buffer_rows=st.sampled_from([1, 150, 10_000]),
)
def test_a_batch_depends_on_seed_and_step_alone(
    data: PreparedData, seed: int, steps: list[int], ranks: int, buffer_rows: int
) -> None:
    stream = data.batches(40, seed)
    assert isinstance(stream, StreamBatches)
    training, pipeline = stream._training, data.training.pipeline

    def fresh() -> StreamBatches:
        return StreamBatches(training, pipeline, None, batch_size=40, buffer_rows=buffer_rows, seed=seed)

    walking = [fresh() for _ in range(ranks)]
    for step in steps:
        shares = [walking[rank].batch(step, rank, ranks) for rank in range(ranks)]
        whole = fresh().batch(step)
        np.testing.assert_array_equal(np.concatenate([share.index for share in shares]), whole.index)
        np.testing.assert_array_equal(np.concatenate([share.rows for share in shares]), whole.rows)


def test_one_window_at_a_time_is_read_and_none_twice_in_a_row(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = ParquetRows.read
    monkeypatch.setattr(ParquetRows, "read", lambda self, group: read.append(group.first) or original(self, group))
    batches = data.batches(40, 0)
    for step in range(23):
        batches.batch(step)
        # A window ends with the group that fills it.
        assert len(batches._window.rows) <= 200 + 90  # type: ignore[attr-defined]
    assert len(read) == len(set(read)) == 13


def test_standardise_is_fitted_on_the_training_rows_only() -> None:
    prepared = load_data(spec(transforms=[{"kind": "standardise"}], columns=["a", "b", "c"]))
    held_out = np.concatenate([prepared.validation.index, prepared.test.index])
    training = np.delete(VALUES, held_out, axis=0)
    expected = (VALUES[prepared.test.index] - training.mean(0)) / training.std(0)
    np.testing.assert_allclose(prepared.test.rows, expected)
    batch = prepared.batches(40, 0).batch(7)
    np.testing.assert_allclose(prepared.original_units(batch.rows), VALUES[batch.index])


def test_context_columns_follow_their_rows() -> None:
    prepared = load_data(spec(columns=["a", "b"], context_columns=["row"]))
    held_out = np.concatenate([prepared.validation.index, prepared.test.index])
    training = np.delete(NUMBERS, held_out)
    batch = prepared.batches(40, 0).batch(30)
    for index, context in ((batch.index, batch.context), (prepared.test.index, prepared.test.context)):
        np.testing.assert_allclose(context[:, 0], (index - training.mean()) / training.std())


def test_the_sample_for_baselines_is_of_training_rows(data: PreparedData) -> None:
    held_out = {*data.validation.index, *data.test.index}
    assert len(data.training) >= 200
    assert not held_out & set(data.training.index)


def test_a_whole_number_in_one_file_and_a_fraction_in_another_are_both_kept(root: Path) -> None:
    folder = root / "mixed"
    folder.mkdir()
    pq.write_table(pa.table({"a": np.arange(100)}), folder / "0.parquet")
    pq.write_table(pa.table({"a": np.arange(100) + 0.5}), folder / "1.parquet")
    small = {"batch_size": 10, "validation_rows": 5, "test_rows": 5, "columns": None}
    batches = load_data(spec(path="mixed", **small)).batches(190, 0)
    batch = batches.batch(0)
    np.testing.assert_array_equal(batch.rows[:, 0], np.where(batch.index < 100, batch.index, batch.index - 99.5))


@pytest.mark.parametrize(("given", "held_out"), [({}, (100, 100)), ({"test_rows": 30}, (100, 30))])
def test_of_few_rows_a_tenth_is_held_out_where_the_spec_does_not_say_how_many(
    root: Path, given: dict[str, int], held_out: tuple[int, int]
) -> None:
    write(root / "few")
    data = load_data(ParquetStreamData.model_validate({"kind": "parquet_stream", "path": "few", **given}))
    assert (len(data.validation), len(data.test)) == held_out
    assert data.training_rows == TOTAL - sum(held_out)


def test_of_many_rows_ten_thousand_are_held_out_where_the_spec_does_not_say_how_many() -> None:
    data = ParquetStreamData.model_validate({"kind": "parquet_stream", "path": "many"})
    assert data.held_out_rows(1_000_000) == (10_000, 10_000)


@pytest.mark.parametrize("bad", [np.nan, None])
def test_a_bad_value_is_named_by_its_file_and_its_row_there(root: Path, bad: float | None) -> None:
    write(root / "bad")
    columns = {"a": [*VALUES[:500, 0], bad, *VALUES[501:, 0]], "b": VALUES[:, 1]}
    pq.write_table(pa.table(columns), root / "bad" / "part-2.parquet", row_group_size=100)
    with pytest.raises(DataError) as caught:
        load_data(spec(path="bad", columns=["a", "b"]))
    assert caught.value.place == {"file": "bad/part-2.parquet", "column": "a", "row": 500}


def test_a_column_that_equals_another_is_refused(root: Path) -> None:
    write(root / "equal", np.stack([VALUES[:, 0], VALUES[:, 1], VALUES[:, 0]], 1))
    with pytest.raises(DataError, match="column 'c' of equal equals column 'a' in all 920 training rows"):
        load_data(spec(path="equal"))


def test_only_files_that_a_program_has_finished_are_streamed(root: Path) -> None:
    folder = root / "written by others"
    write(folder)
    # Spark makes a folder of this name, with the rows in it.
    write(folder / "more.parquet")
    for unfinished in (folder / ".ipynb_checkpoints", folder / "_temporary"):
        write(unfinished)
    assert load_data(spec(path=folder.name, columns=["a", "b", "c"])).training_rows == 2 * TOTAL - 80


def test_a_link_out_of_the_data_roots_is_not_followed(root: Path, tmp_path: Path) -> None:
    write(root / "linked")
    write(tmp_path / "outside")
    (root / "linked" / "link.parquet").symlink_to(tmp_path / "outside" / "part-0.parquet")
    with pytest.raises(DataError, match=r"linked/link\.parquet was not found below a data root"):
        load_data(spec(path="linked"))


def test_an_index_of_pandas_is_no_column(root: Path) -> None:
    (root / "pandas").mkdir()
    columns = {"a": VALUES[:, 0], "__index_level_0__": np.arange(TOTAL)}
    pq.write_table(pa.table(columns), root / "pandas" / "0.parquet")
    assert load_data(spec(path="pandas", columns=None)).columns == ("a",)


def test_a_file_that_is_replaced_during_training_is_noticed(root: Path) -> None:
    write(root / "replaced")
    batches = load_data(spec(path="replaced")).batches(40, 0)
    batches.batch(0)
    write(root / "replaced", VALUES + 1)
    with pytest.raises(DataError, match=r"part-.\.parquet: was changed since it was checked"):
        batches.batch(22)


def test_a_constant_column_and_too_few_rows_and_an_empty_folder_are_refused(root: Path) -> None:
    constant = VALUES.copy()
    constant[:, 1] = 7.0
    write(root / "constant", constant)
    with pytest.raises(DataError, match="column 'b' of constant has the value 7 in all 920 training rows"):
        load_data(spec(path="constant"))
    with pytest.raises(DataError, match=r"rows has 1000 rows; .* not enough for a batch"):
        load_data(spec(test_rows=945))
    (root / "empty").mkdir()
    with pytest.raises(DataError, match=r"without any \.parquet file"):
        load_data(spec(path="empty"))
    with pytest.raises(DataError, match="no column 'z'"):
        load_data(spec(columns=["z"]))


def test_a_value_that_a_transform_cannot_take_is_named(root: Path) -> None:
    with pytest.raises(DataError, match="logit takes values from 0 to 1") as caught:
        load_data(spec(columns=["a"], transforms=[{"kind": "logit"}]))
    row = int(np.argmax((VALUES[:, 0] < 0) | (VALUES[:, 0] > 1)))
    assert caught.value.place == {"file": "rows/part-0.parquet", "column": "a", "row": row}


def parts_below(root: Path, **tables: pa.Table) -> None:
    """Write files below the folder ``parts``; ``__`` in a name is a folder's end, ``_is_`` an equals sign."""
    for name, table in tables.items():
        path = root / "parts" / f"{name.replace('__', '/').replace('_is_', '=')}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMADJ_DATA_ROOTS", str(tmp_path))
    return tmp_path


SMALL = {"path": "parts", "columns": None, "batch_size": 4, "validation_rows": 2, "test_rows": 2}


def rows_of(data: ParquetStreamData) -> tuple[np.ndarray, ParquetRows]:
    """All rows in the order of the files, context behind the columns."""
    source = ParquetRows(data, roots_of_test())
    tables = [source.read(group) for group in source.groups]
    whole = [table.rows if table.context is None else np.c_[table.rows, table.context] for table in tables]
    return np.concatenate(whole), source


def test_files_without_rows_have_no_say(parts: Path) -> None:
    rows = pa.table({"a": VALUES[:10, 0], "b": VALUES[:10, 1]})
    nulls = pa.table({"a": pa.nulls(0), "b": pa.nulls(0)})
    parts_below(
        parts,
        p0=pa.table({}),
        p1=rows,
        p2=nulls,
        p3=rows.slice(0, 0).cast(pa.schema({"a": "int8", "b": "int8"})),
        p4=rows,
    )
    load_data(spec(**SMALL))
    read, source = rows_of(spec(**SMALL))
    assert source.columns == ("a", "b")
    np.testing.assert_array_equal(read, np.tile(VALUES[:10, :2], (2, 1)))


def test_a_column_without_values_is_refused_where_there_are_rows(parts: Path) -> None:
    parts_below(parts, p0=pa.table({"a": VALUES[:10, 0]}), p1=pa.table({"a": pa.nulls(10)}))
    with pytest.raises(DataError, match="every value is missing") as caught:
        load_data(spec(**SMALL))
    assert caught.value.place == {"file": "parts/p1.parquet", "column": "a"}


def test_only_files_without_rows_are_too_few(parts: Path) -> None:
    parts_below(parts, p0=pa.table({"a": pa.nulls(0)}))
    with pytest.raises(DataError, match="parts has 0 rows"):
        load_data(spec(**SMALL))


def test_a_column_that_only_a_later_file_has_is_left_out_with_a_note(parts: Path) -> None:
    column = {"a": VALUES[:10, 0]}
    parts_below(parts, p0=pa.table(column), p1=pa.table({"new": VALUES[:10, 1], **column}))
    read, source = rows_of(spec(**SMALL))
    assert (source.columns, read.shape) == (("a",), (20, 1))
    assert source.notes == ("column 'new', which the first file does not have, was left out",)


@pytest.mark.parametrize("context", [False, True])
def test_what_the_folders_are_called_is_a_column_of_their_files(parts: Path, context: bool) -> None:
    frame = pd.DataFrame({"a": VALUES[:12, 0].astype(np.float32), "donor": [3, 0, 10] * 4, "dose": [0.5, 0.25] * 6})
    frame.to_parquet(parts / "parts", partition_cols=["donor", "dose"])
    more = {"columns": ["a"], "context_columns": ["dose", "donor"]} if context else {}
    read, source = rows_of(spec(**SMALL | more))
    assert (source.columns, source.context_columns) == (
        (("a",), ("dose", "donor")) if context else (("a", "donor", "dose"), ())
    )
    names = ["a", "dose", "donor"] if context else ["a", "donor", "dose"]
    # Files come in the order of their names: 10 before 3.
    by_name = frame.sort_values(["donor", "dose"], key=lambda column: column.astype(str), kind="stable")
    np.testing.assert_array_equal(read, by_name[names].to_numpy(float))
    load_data(spec(**SMALL | more))


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("donor_is_A", "is 'A' by the name of the folder, not a number: name the columns to use by data.columns"),
        ("donor_is___HIVE_DEFAULT_PARTITION__", "which is a missing value"),
        ("donor_is_9007199254740993", "whole numbers above 2^53 are not exact"),
    ],
)
def test_a_folder_whose_name_is_no_number_is_refused_by_its_column(parts: Path, folder: str, words: str) -> None:
    path = parts / "parts" / folder.replace("_is_", "=")
    path.mkdir(parents=True)
    pq.write_table(pa.table({"a": VALUES[:20, 0]}), path / "p.parquet")
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        load_data(spec(**SMALL))
    assert caught.value.place["column"] == "donor"
    assert load_data(spec(**SMALL | {"columns": ["a"]})).columns == ("a",)


def test_a_column_that_files_hold_beside_their_folder_must_agree_with_it(parts: Path) -> None:
    for name, donor in (("donor_is_1__p", 1), ("donor_is_2__p", 2)):
        parts_below(parts, **{name: pa.table({"donor": [donor] * 10, "a": VALUES[:10, 0]})})
    read, source = rows_of(spec(**SMALL))
    assert source.columns == ("donor", "a")
    np.testing.assert_array_equal(read[:, 0], [1] * 10 + [2] * 10)
    parts_below(parts, donor_is_2__p=pa.table({"donor": [3] * 10, "a": VALUES[:10, 0]}))
    with pytest.raises(DataError, match="holds other values than the name of its folder, donor=2"):
        load_data(spec(**SMALL))


def test_a_file_outside_of_the_folders_lacks_their_column(parts: Path) -> None:
    rows = pa.table({"a": VALUES[:10, 0]})
    parts_below(parts, donor_is_1__p=rows, p=rows)
    with pytest.raises(DataError, match=r"parts/p\.parquet.* has no column 'donor'"):
        load_data(spec(**SMALL))


def test_a_folder_of_a_column_may_begin_with_an_underscore(parts: Path) -> None:
    parts_below(parts, _donor_is_1__p=pa.table({"a": VALUES[:10, 0]}), _temporary__p=pa.table({"z": ["x"]}))
    read, source = rows_of(spec(**SMALL))
    assert (source.columns, read.shape) == (("a", "_donor"), (10, 2))
