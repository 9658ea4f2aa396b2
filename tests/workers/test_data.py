"""The data sets, their split, their transforms and the order of batches."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from service.spec import ArcsinhTransform, BuiltinData, StandardiseTransform, ToyData
from workers.data import BatchOrder, DataError, Table, load_table, prepare

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
    data = MOONS.model_copy(update={"transforms": (ArcsinhTransform(scale=0.3), StandardiseTransform())})
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


def test_a_batch_does_not_depend_on_the_batches_asked_for_before() -> None:
    order = BatchOrder(rows=100, batch_size=10, seed=3)
    walked = [order.rows_of_step(step) for step in range(25)]
    np.testing.assert_array_equal(BatchOrder(rows=100, batch_size=10, seed=3).rows_of_step(24), walked[24])
