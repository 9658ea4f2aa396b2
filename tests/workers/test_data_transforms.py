"""Transforms: inverse, Jacobian, storage, and dequantisation's noise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from symadj.service.contract.spec.data import BuiltinData, ToyData
from symadj.service.contract.spec.transforms import Transform, Transforms
from symadj.workers.data import DataError, Table, prepare
from symadj.workers.data.transforms import fit_transforms, moments
from symadj_core.noise import uniform
from symadj_core.transforms import invert, restore_transforms
from tests.workers.loading import load_data, load_table

TRANSFORM: TypeAdapter[Transform] = TypeAdapter(Transform)
LISTS: TypeAdapter[Any] = TypeAdapter(Transforms)
unit_rows = arrays(np.float64, (6, 3), elements=st.floats(0, 1))
real_rows = arrays(np.float64, (6, 3), elements=st.floats(-1e6, 1e6))
some_columns = st.sampled_from([{}, {"columns": ["b"]}, {"columns": ["c", "a"]}])
chains = st.lists(
    st.one_of(
        st.builds(lambda scale, where: {"kind": "arcsinh", "scale": scale, **where}, st.floats(0.1, 1e3), some_columns),
        st.builds(lambda where: {"kind": "standardise", **where}, some_columns),
    ),
    max_size=3,
)
training = np.random.default_rng(0).normal(1.0, 3.0, (50, 3))


def fitted(chain: list[dict[str, Any]], rows: np.ndarray = training) -> tuple[Any, ...]:
    return fit_transforms(LISTS.validate_python(chain), (), lambda: iter([rows[:20], rows[20:]]), ("a", "b", "c"))


def apply(transforms: tuple[Any, ...], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    log_abs_det = np.zeros(len(rows))
    for transform in transforms:
        rows, change = transform(rows)
        log_abs_det = log_abs_det + change
    return rows, log_abs_det


@given(chains, real_rows)
def test_samples_return_to_original_units(chain: list[dict[str, Any]], rows: np.ndarray) -> None:
    transforms = fitted(chain)
    np.testing.assert_allclose(invert(transforms, apply(transforms, rows)[0]), rows, rtol=1e-8, atol=1e-8)


@given(st.floats(1e-6, 0.4), unit_rows)
def test_logit_returns_to_original_units(alpha: float, rows: np.ndarray) -> None:
    transforms = fitted([{"kind": "logit", "alpha": alpha}])
    np.testing.assert_allclose(invert(transforms, apply(transforms, rows)[0]), rows, atol=1e-9)


@given(chains, arrays(np.float64, (6, 3), elements=st.floats(-50, 50)))
def test_log_abs_det_is_that_of_finite_differences(chain: list[dict[str, Any]], rows: np.ndarray) -> None:
    _agrees_with_differences(fitted(chain), rows)


@given(st.floats(1e-3, 0.4), arrays(np.float64, (6, 3), elements=st.floats(0, 255)))
def test_log_abs_det_of_dequantised_logits_is_that_of_finite_differences(alpha: float, rows: np.ndarray) -> None:
    chain = [{"kind": "dequantise", "levels": 256}, {"kind": "logit", "alpha": alpha}, {"kind": "standardise"}]
    _agrees_with_differences(fitted(chain, np.abs(training)), rows)


def _agrees_with_differences(transforms: tuple[Any, ...], rows: np.ndarray) -> None:
    nudge = 1e-5 * (1 + np.abs(rows))
    # All columns at once: every transform works on each column by itself.
    up, down = apply(transforms, rows + nudge)[0], apply(transforms, rows - nudge)[0]
    numeric = np.log((up - down) / (2 * nudge)).sum(1)
    np.testing.assert_allclose(apply(transforms, rows)[1], numeric, atol=2e-3)


@given(chains, real_rows)
def test_stored_parameters_make_the_same_transforms(chain: list[dict[str, Any]], rows: np.ndarray) -> None:
    transforms = fitted(chain)
    stored = json.loads(json.dumps([transform.parameters() for transform in transforms]))
    for mine, restored in zip(apply(transforms, rows), apply(restore_transforms(stored), rows), strict=True):
        np.testing.assert_array_equal(mine, restored)


def test_a_transform_of_some_columns_leaves_the_others_and_their_volume_alone() -> None:
    transforms = fitted([{"kind": "arcsinh", "scale": 2.0, "columns": ["c", "a"]}])
    rows, log_abs_det = apply(transforms, training)
    np.testing.assert_array_equal(rows[:, 1], training[:, 1])
    np.testing.assert_array_equal(rows[:, [2, 0]], np.arcsinh(training[:, [2, 0]] / 2))
    np.testing.assert_allclose(log_abs_det, -0.5 * np.log(training[:, [2, 0]] ** 2 + 4).sum(1))
    transforms = fitted([{"kind": "standardise", "columns": ["b"]}])
    np.testing.assert_allclose(apply(transforms, training)[0].std(0)[1], 1)
    assert transforms[0].parameters()["columns"] == [1]


def test_a_transform_of_a_column_that_is_not_there_or_is_named_twice_is_refused() -> None:
    with pytest.raises(DataError, match="arcsinh names the column 'd'; the columns are: a, b, c"):
        fitted([{"kind": "arcsinh", "columns": ["d"]}])
    with pytest.raises(ValidationError, match="named more often: a"):
        fitted([{"kind": "arcsinh", "columns": ["a", "b", "a"]}])


def test_a_value_that_a_transform_of_its_column_cannot_take_is_named() -> None:
    rows = np.random.default_rng(0).random((1000, 2))
    rows[:, 0] *= 100
    rows[333, 1] = 1.5
    transforms = [{"kind": "logit", "columns": ["b"]}]
    data = ToyData.model_validate({"kind": "toy", "name": "moons", "rows": 1000, "transforms": transforms})
    with pytest.raises(DataError, match=r"comes to logit as 1\.5; logit takes values from 0 to 1") as caught:
        prepare(data, Table(("a", "b"), rows))
    assert caught.value.place == {"column": "b", "row": 333}


@given(st.integers(1, 30), st.floats(-1e3, 1e3))
def test_moments_do_not_depend_on_the_pieces(size: int, offset: float) -> None:
    rows = training + offset
    mean, std = moments(rows[first : first + size] for first in range(0, len(rows), size))
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-10)


@given(arrays(np.int64, (5, 4), elements=st.integers(0, 16)), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_dequantised_rows_return_to_the_same_whole_numbers(rows: np.ndarray, seed: int, epoch: int) -> None:
    transforms = fitted([{"kind": "dequantise", "levels": 17}])
    noisy = rows + uniform(seed, epoch, np.arange(5), 4)
    np.testing.assert_array_equal(np.floor(noisy), rows)
    np.testing.assert_array_equal(invert(transforms, apply(transforms, noisy)[0]), rows)


def test_noise_is_uniform_and_that_of_other_rows_epochs_seeds_and_columns_is_independent() -> None:
    index = np.arange(20_000)
    noise = uniform(0, 0, index, 2)
    assert noise.min() >= 0
    assert noise.max() < 1
    histogram = np.histogram(noise, 20, (0, 1))[0]
    assert np.abs(histogram - 2000).max() < 5 * np.sqrt(2000)
    neighbours = [noise[:, 1], uniform(0, 0, index + 1, 2)[:, 0], uniform(0, 1, index, 2)[:, 0]]
    for other in [*neighbours, uniform(1, 0, index, 2)[:, 0]]:
        assert abs(np.corrcoef(noise[:, 0], other)[0, 1]) < 5 / np.sqrt(len(index))


def test_noise_belongs_to_the_row_wherever_it_is_asked_for() -> None:
    whole = uniform(3, 7, np.arange(100), 5)
    np.testing.assert_array_equal(uniform(3, 7, np.array([42, 17]), 5), whole[[42, 17]])


DIGITS = BuiltinData(kind="builtin", name="digits", batch_size=100)


def test_a_training_row_gets_new_noise_in_every_epoch_and_a_held_out_row_keeps_its_own() -> None:
    data = load_data(DIGITS)
    place = np.arange(50)
    first, second = (data.training.take(place, epoch) for epoch in (0, 1))
    assert not np.isclose(first.rows, second.rows).any()
    np.testing.assert_array_equal(data.original_units(first.rows), data.original_units(second.rows))
    np.testing.assert_array_equal(load_data(DIGITS).test.rows, data.test.rows)


def test_bits_per_dim_of_uniform_noise_is_that_of_the_levels() -> None:
    data = load_data(DIGITS)
    # A density that is uniform over [0, 17)^64.
    assert data.bits_per_dim(64 * np.log(17)) == pytest.approx(np.log2(17))
    assert load_data(ToyData(kind="toy", name="rings")).bits_per_dim(1.0) is None


def test_digits_are_images_of_seventeen_levels() -> None:
    data = load_data(DIGITS)
    assert (data.dim, data.shape, data.levels) == (64, (1, 8, 8), 17)
    assert data.config()["transforms"][0] == {"kind": "dequantise", "levels": 17}
    table = load_table(DIGITS)
    np.testing.assert_array_equal(data.original_units(data.validation.rows), table.rows[data.validation.index])


@pytest.mark.parametrize(
    ("chain", "value", "words"),
    [
        ([{"kind": "logit"}], 1.5, "is 1.5 and comes to logit as 1.5; logit takes values from 0 to 1"),
        ([{"kind": "dequantise", "levels": 4}], 4.0, "dequantise takes whole numbers from 0 to 3"),
        ([{"kind": "dequantise", "levels": 4}], 0.5, "dequantise takes whole numbers from 0 to 3"),
        ([{"kind": "dequantise", "levels": 4}], -1.0, "dequantise takes whole numbers from 0 to 3"),
    ],
)
def test_a_value_that_a_transform_cannot_take_is_refused_with_its_place(
    chain: list[dict[str, Any]], value: float, words: str
) -> None:
    data = ToyData.model_validate({"kind": "toy", "name": "moons", "rows": 1000, "transforms": chain})
    rows = np.random.default_rng(0).integers(2, size=(1000, 2)).astype(float)
    rows[333, 1] = value
    with pytest.raises(DataError, match=words) as caught:
        prepare(data, Table(("a", "b"), rows))
    assert caught.value.place == {"column": "b", "row": 333}
