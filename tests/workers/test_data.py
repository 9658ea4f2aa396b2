"""The data sets, their split, their transforms and the order of batches."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from symadj.service.catalogue import BUILTIN, Dataset
from symadj.service.contract.spec.data import BuiltinData, Data, ToyData
from symadj.service.contract.spec.transforms import ArcsinhTransform, StandardiseTransform
from symadj.workers.data import BatchOrder, DataError, PartBatches, Table, prepare
from tests.workers.loading import load_data, load_table

MOONS = ToyData(kind="toy", name="moons", rows=1000)


def table_of(rows: np.ndarray) -> Table:
    return Table(tuple(f"c{i}" for i in range(rows.shape[1])), rows)


def test_the_flow_cytometry_split_is_the_one_that_its_reference_figures_were_made_on() -> None:
    data = BuiltinData(kind="builtin", name="flow_cytometry")
    prepared = prepare(data, load_table(data))
    order = np.random.RandomState(0).permutation(110_000)
    assert prepared.columns[:2] == ("FSC-A", "FSC-H")
    for part, expected in (
        (prepared.training, order[:88_000]),
        (prepared.validation, order[88_000:99_000]),
        (prepared.test, order[99_000:]),
    ):
        np.testing.assert_array_equal(part.index, expected)
    np.testing.assert_allclose(prepared.training.rows.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(prepared.training.rows.std(0), 1, atol=1e-12)


def test_transforms_are_fitted_on_the_training_rows_only() -> None:
    table = load_table(MOONS)
    before = prepare(MOONS, table).transforms[0].parameters()
    rows = table.rows.copy()
    rows[np.random.RandomState(0).permutation(1000)[800:]] += 100.0
    assert prepare(MOONS, Table(table.columns, rows)).transforms[0].parameters() == before


def test_log_abs_det_is_that_of_the_transforms_jacobian() -> None:
    data = MOONS.model_copy(
        update={"transforms": (ArcsinhTransform(kind="arcsinh", scale=0.3), StandardiseTransform(kind="standardise"))}
    )
    table = load_table(data)
    part = prepare(data, table).validation
    nudge = 1e-6
    moved = prepare(data, table).transforms
    raw = table.rows[part.index]
    numeric = np.zeros(len(part))
    for column in range(2):
        step = np.zeros(2)
        step[column] = nudge
        up, down = raw + step, raw - step
        for transform in moved:
            up, down = transform(up)[0], transform(down)[0]
        numeric += np.log((up - down)[:, column] / (2 * nudge))
    np.testing.assert_allclose(part.log_abs_det, numeric, atol=1e-6)


@pytest.mark.parametrize("name", get_args(ToyData.model_fields["name"].annotation))
def test_a_toy_is_the_same_for_the_same_seed(name: str) -> None:
    toy = ToyData(kind="toy", name=name, rows=500, batch_size=100)
    np.testing.assert_array_equal(load_table(toy).rows, load_table(toy).rows)
    other = toy.model_copy(update={"split_seed": 1})
    assert not np.array_equal(load_table(toy).rows, load_table(other).rows)


def test_a_value_that_is_not_finite_is_refused_with_its_place() -> None:
    rows = load_table(MOONS).rows.copy()
    rows[17, 1] = np.nan
    with pytest.raises(DataError, match=r"row 17 .from 0., column 'c1'.*nan"):
        prepare(MOONS, table_of(rows))


def test_a_constant_column_is_refused_by_its_name() -> None:
    rows = load_table(MOONS).rows.copy()
    rows[:, 0] = 0.1
    with pytest.raises(DataError, match=r"column .c0. has the value 0\.1 in all 800 training rows"):
        prepare(MOONS, table_of(rows))


def test_a_column_that_equals_another_in_the_training_rows_is_refused() -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 4))
    rows[:, 3] = rows[:, 1]
    rows[:, 2] = rows[:, 0]
    rows[np.random.RandomState(0).permutation(1000)[3], 2] += 1e-6  # a training row
    rows[np.random.RandomState(0).permutation(1000)[900], 3] += 1.0  # a test row
    with pytest.raises(DataError, match="column 'c3' equals column 'c1' in all 800 training rows") as caught:
        prepare(MOONS, table_of(rows))
    assert caught.value.place == {"column": "c3"}


def test_columns_that_are_equal_may_be_conditioned_on() -> None:
    table = load_table(MOONS)
    prepare(MOONS, replace(table, context_columns=("c", "d"), context=table.rows[:, [0, 0]]))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.random.default_rng(0).standard_normal((1000, 2)) * 1e42, "too large for single precision"),
        (np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float16) * np.float16(np.inf), "not finite"),
        (np.random.default_rng(0).integers(2**53, 2**60, (1000, 2)), r"whole numbers above 2\^53"),
        (-np.random.default_rng(0).integers(2**53, 2**60, (1000, 2)), r"whole numbers above 2\^53"),
        (np.random.default_rng(0).integers(2**60, 2**64 - 1, (1000, 2), np.uint64), r"whole numbers above 2\^53"),
    ],
)
def test_numbers_that_floats_cannot_hold_are_refused(rows: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=rf"row 0 .from 0., column 'c0' is .*{words}"):
        prepare(MOONS, table_of(rows))


def test_a_value_too_large_once_transformed_is_refused() -> None:
    rows = 1e-20 * np.random.default_rng(0).standard_normal((1000, 2))
    place = int(np.random.RandomState(0).permutation(1000)[900])  # a test row
    rows[place, 1] = 1e30
    with pytest.raises(DataError, match=r"is 1e\+30, and .* when transformed: too large") as caught:
        prepare(MOONS, table_of(rows))
    assert caught.value.place == {"column": "c1", "row": place}


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="10 rows leave 1 for validation, at least 2"):
        prepare(MOONS, table_of(np.random.default_rng(0).standard_normal((10, 2))))


def test_a_batch_larger_than_the_training_part_is_refused() -> None:
    data = MOONS.model_copy(update={"batch_size": 801})
    with pytest.raises(DataError, match=r"batch_size 801 is larger than the 800 training rows"):
        prepare(data, load_table(data))


def test_every_row_is_seen_at_most_once_an_epoch_and_the_incomplete_batch_is_dropped() -> None:
    order = BatchOrder(rows=107, batch_size=10, seed=3)
    assert order.batches_per_epoch == 10
    seen = np.concatenate([order.rows_of_step(step) for step in range(10)])
    assert len(np.unique(seen)) == 100
    assert not np.array_equal(seen, np.concatenate([order.rows_of_step(step) for step in range(10, 20)]))


def test_the_shares_of_the_ranks_are_the_batch_of_one_rank() -> None:
    order = BatchOrder(rows=107, batch_size=12, seed=3)
    for step in (0, 7, 8, 30):
        shares = [order.rows_of_step(step, rank, 3) for rank in range(3)]
        np.testing.assert_array_equal(np.concatenate(shares), order.rows_of_step(step))


def test_shares_that_would_leave_rows_out_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 10 rows has no 3 equal shares"):
        BatchOrder(rows=100, batch_size=10, seed=3).rows_of_step(0, rank=0, ranks=3)


def test_a_batch_does_not_depend_on_the_batches_asked_for_before() -> None:
    order = BatchOrder(rows=100, batch_size=10, seed=3)
    walked = [order.rows_of_step(step) for step in range(25)]
    np.testing.assert_array_equal(BatchOrder(rows=100, batch_size=10, seed=3).rows_of_step(24), walked[24])


@pytest.mark.parametrize("dataset", BUILTIN, ids=lambda dataset: dataset.name)
def test_the_catalogue_tells_the_truth(dataset: Dataset) -> None:
    spec: TypeAdapter[Data] = TypeAdapter(Data)
    data = load_data(spec.validate_python({"kind": dataset.kind, "name": dataset.name, "batch_size": 50}))
    rows = len(data.training) + len(data.validation) + len(data.test)
    assert (rows, data.dim) == (dataset.rows or 10_000, dataset.dim)


def test_context_columns_are_standardised_and_follow_their_rows() -> None:
    table = load_table(MOONS)
    context = table.rows[:, :1] * 7 + 3
    data = prepare(MOONS, replace(table, context_columns=("c",), context=context))
    assert (data.dim, data.context_dim) == (2, 1)
    # The context is a linear function of the first column, and so the same number once both are standardised.
    for step in (0, 5):
        batch = PartBatches(data.training, 100, seed=0).batch(step)
        np.testing.assert_allclose(batch.context[:, 0], batch.rows[:, 0])
    share = data.test.share(1, 3).head(5)
    np.testing.assert_allclose(share.context[:, 0], share.rows[:, 0])


def test_a_constant_context_is_refused() -> None:
    table = load_table(MOONS)
    with pytest.raises(DataError, match="column 'c' has the value 1 in all 800"):
        prepare(MOONS, replace(table, context_columns=("c",), context=np.ones((1000, 1))))


@given(
    rows=st.integers(1, 300),
    ranks=st.integers(1, 4),
    share=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 50),
)
def test_an_epoch_is_seen_once_without_overlap_between_ranks(
    rows: int, ranks: int, share: int, seed: int, epoch: int
) -> None:
    size = ranks * share
    assume(size <= rows)
    order = BatchOrder(rows, size, seed)
    steps = range(epoch * order.batches_per_epoch, (epoch + 1) * order.batches_per_epoch)
    seen = np.concatenate([order.rows_of_step(step, rank, ranks) for step in steps for rank in range(ranks)])
    assert len(seen) == rows // size * size
    assert len(np.unique(seen)) == len(seen)
    assert set(seen) <= set(range(rows))


def test_batches_of_dequantised_rows_do_not_depend_on_ranks_or_on_what_was_asked_before() -> None:
    data = load_data(BuiltinData(kind="builtin", name="digits", batch_size=100))
    batches = PartBatches(data.training, 100, seed=4)
    walked = [batches.batch(step) for step in range(40)]
    fresh = PartBatches(data.training, 100, seed=4)
    for step in (39, 15):
        shares = [fresh.batch(step, rank, 4) for rank in range(4)]
        np.testing.assert_array_equal(np.concatenate([share.index for share in shares]), walked[step].index)
        np.testing.assert_array_equal(np.concatenate([share.rows for share in shares]), walked[step].rows)
