"""What a flow is compared with: other densities on the same rows, and a classifier's eye for its samples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from symadj.service.contract.result import MixtureBaseline
from symadj.workers.evaluation import baselines
from symadj.workers.evaluation.baselines import fit_baselines
from symadj.workers.evaluation.two_sample import _auc, two_sample_test


def test_the_two_sample_test_cannot_tell_equal_densities_apart_and_tells_shifted_ones() -> None:
    rng = np.random.default_rng(0)
    rows, same, shifted = rng.standard_normal((3, 800, 2)) + np.array([0, 0, 1])[:, None, None]
    equal = two_sample_test(rows, same, seed=0, threads=1)
    assert abs(equal.auc - 0.5) < 4 * equal.auc_stderr
    assert abs(equal.accuracy - 0.5) < 4 * equal.accuracy_stderr
    other = two_sample_test(rows, shifted, seed=0, threads=1)
    assert other.accuracy > 0.6
    assert other.auc > 0.5 + 10 * other.auc_stderr
    assert other.rows == 400
    assert two_sample_test(rows, shifted, seed=0, threads=1) == other


def test_the_two_sample_test_learns_nothing_from_contexts_that_rows_and_samples_share() -> None:
    """A classifier that learnt which contexts were rows', in its half, would be wrong about them in the other half."""
    rng = np.random.default_rng(0)
    context = np.repeat(rng.permutation(100).astype(float), 10)[:, None]
    aucs = []
    for seed in range(8):
        rows, samples = (np.hstack([rng.standard_normal((1000, 1)), context]) for _ in range(2))
        aucs.append(two_sample_test(rows, samples, seed=seed, threads=1).auc)
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.015), "0.464 with halves drawn for each by itself"


def test_the_area_under_the_curve_is_scikit_learns_and_its_error_is_the_spread_over_draws() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 10, (2, 200)).astype(float) + np.array([0, 2])[:, None]
    value, _ = _auc(low, high)
    assert value == pytest.approx(roc_auc_score(np.repeat([0, 1], 200), np.concatenate([low, high])))
    draws = [_auc(rng.standard_normal(100), rng.standard_normal(100) + 1) for _ in range(300)]
    values, errors = np.array(draws).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_baselines_do_not_depend_on_the_units_of_the_columns() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, 3)) + 3 * rng.integers(2, size=(600, 1))
    units = np.array([1e-5, 1.0, 1e6])
    plain, scaled = (fit_baselines(r[:400], r[400:], components=2, seed=0, threads=1) for r in (rows, rows * units))
    more = np.log(units).sum()
    assert scaled.gaussian == pytest.approx(plain.gaussian + more, abs=1e-6)
    of_plain, of_scaled = (fitted.gaussian_mixture.test_nll for fitted in (plain, scaled))
    assert of_scaled == pytest.approx(of_plain + more, abs=1e-3)


def test_baselines_have_no_figure_where_columns_depend_on_each_other() -> None:
    rows = 1000 * np.random.default_rng(0).standard_normal((300, 2)) @ np.array([[1.0, 0, 1], [0, 1, 1]])
    fitted = fit_baselines(rows[:200], rows[200:], components=2, seed=0, threads=1)
    assert (fitted.gaussian, fitted.gaussian_mixture) == (None, MixtureBaseline(components=2, test_nll=None))


def test_a_baseline_of_a_conditional_flow_knows_the_context_whatever_its_units_and_code() -> None:
    rng = np.random.default_rng(0)
    of_class, noise = rng.integers(0, 3, 3000), rng.standard_normal((3000, 2))
    code = np.eye(3)[of_class]  # its columns sum to 1
    rows = 1e3 * (code @ np.array([[0.0, 9.0], [5.0, -4.0], [-7.0, 1.0]]) + noise)
    fitted = fit_baselines(
        rows[:2000], rows[2000:], components=1, seed=0, threads=1, contexts=(code[:2000], code[2000:])
    )
    entropy = np.log(2 * np.pi * np.e) + 2 * np.log(1e3)  # of the noise
    assert fitted.linear_gaussian == pytest.approx(entropy, abs=0.05)
    assert fitted.conditional
    assert fitted.gaussian > entropy + 1
    alone = fit_baselines(rows[:2000], rows[2000:], components=1, seed=0, threads=1)
    assert (alone.conditional, alone.linear_gaussian, alone.gaussian) == (False, None, fitted.gaussian)


def test_baselines_survive_components_that_collapse() -> None:
    """Rows on few distinct points: a component of one of them has no covariance."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (400, 2)) * 1e4 + 0.0
    fitted = fit_baselines(rows[:300], rows[300:], components=9, seed=0, threads=1)
    assert fitted.gaussian is not None
    assert fitted.gaussian_mixture.components == 9


def test_the_mixture_takes_as_many_rows_as_it_can_in_time_or_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((400, 2))
    monkeypatch.setattr(baselines, "_MOST_WORK", 2 * 2**2 * 100)
    some = fit_baselines(rows[:300], rows[300:], components=2, seed=0, threads=1)
    assert some.gaussian_mixture.test_nll == pytest.approx(some.gaussian, abs=0.3)
    monkeypatch.setattr(baselines, "_MOST_WORK", 2 * 2**2 * 4)
    none = fit_baselines(rows[:300], rows[300:], components=2, seed=0, threads=1)
    assert none.gaussian_mixture.test_nll is None
    assert none.gaussian == some.gaussian
