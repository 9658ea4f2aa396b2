"""Classical densities fitted on the same split, to judge a flow's test likelihood by."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from symadj.service.contract.result import Baselines, MixtureBaseline

__all__ = ["fit_baselines"]

Rows = NDArray[np.float64]

# Rows times components times squared columns. The other ranks wait for the fit, but not for ever.
_MOST_WORK = 10**10
# Of the largest eigenvalue: smaller ones are rounding.
_NO_DIRECTION = 1e-12


def fit_baselines(
    training: Rows,
    test: Rows,
    components: int,
    seed: int,
    threads: int,
    *,
    contexts: tuple[Rows, Rows] | None = None,
) -> Baselines:
    """Fit a Gaussian and a Gaussian mixture with full covariances, and return their test NLL.

    Both are fitted to training rows, standardised by these so that the columns' units do not matter: the Gaussian to
    all of them, the mixture to at most as many as take some minutes, drawn with ``seed``. The mixture is
    scikit-learn's: expectation-maximisation, the better of two k-means starts drawn with ``seed``; another seed may
    find another optimum. Beside a conditional flow, a third density knows what it knows: a Gaussian whose mean is
    linear in the context, by least squares over all training rows.

    Args:
        training: [n, dim].
        test: [m, dim], in the same space.
        components: of the mixture.
        seed: draws the mixture's rows and its start.
        threads: for linear algebra, which would otherwise take all cores, those of the other ranks too.
        contexts: of a conditional flow, those of the training rows [n, context dim] and of the test rows.

    Returns:
        NLLs in nats a row, in the space of the rows. All are None where the covariance is singular (a column is a sum
        of others, say: there is no density), and the mixture's where a component would have no more rows than columns
        or it can't be fitted.
    """
    mean, spread = training.mean(0), training.std(0)
    spread[spread == 0] = 1
    standard, standard_test = (training - mean) / spread, (test - mean) / spread
    linear = mixture = None
    with threadpool_limits(threads):
        gaussian = _gaussian_nll(standard, standard_test)
        if gaussian is not None:
            if contexts is not None:
                linear = _gaussian_nll(*_less_the_contexts(standard, standard_test, contexts))
            chosen = _some(standard, _MOST_WORK // (components * len(spread) ** 2), seed)
            if len(chosen) > components * len(spread):
                mixture = _mixture_nll(chosen, standard_test, components, seed)
    scale = float(np.log(spread).sum())

    def of_the_rows(nll: float | None) -> float | None:
        return None if nll is None else nll + scale

    return Baselines(
        conditional=contexts is not None,
        linear_gaussian=of_the_rows(linear),
        gaussian=of_the_rows(gaussian),
        gaussian_mixture=MixtureBaseline(components=components, test_nll=of_the_rows(mixture)),
    )


def _some(rows: Rows, most: int, seed: int) -> Rows:
    """Return ``rows``, or ``most`` of them drawn at random."""
    if len(rows) <= most:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), most, replace=False)]


def _mixture_nll(training: Rows, test: Rows, components: int, seed: int) -> float | None:
    from sklearn.mixture import GaussianMixture  # takes a second to import, and most processes never fit one

    # In float32 twice as fast; in float64 where float32's rounding leaves a covariance without a Cholesky factor.
    for dtype in (np.float32, np.float64):
        mixture = GaussianMixture(components, n_init=2, random_state=seed)
        try:
            mixture.fit(training.astype(dtype))
        except ValueError:
            continue
        return -float(mixture.score(test.astype(dtype)))
    return None


def _less_the_contexts(training: Rows, test: Rows, contexts: tuple[Rows, Rows]) -> tuple[Rows, Rows]:
    """Return what a regression of the training rows on their contexts, by least squares, leaves of both."""
    known, asked = (np.hstack([context, np.ones((len(context), 1))]) for context in contexts)
    # Contexts may depend on each other, as a class in one column of 0 and 1 per class does.
    coefficients = np.linalg.pinv(known.T @ known, rcond=_NO_DIRECTION, hermitian=True) @ (known.T @ training)
    return training - known @ coefficients, test - asked @ coefficients


def _gaussian_nll(training: Rows, test: Rows) -> float | None:
    """Return the mean NLL of ``test`` [m, dim] under N(0, the covariance of ``training``), whose mean is 0.

    None: the covariance is singular.
    """
    covariance = training.T @ training / len(training)
    if np.linalg.matrix_rank(covariance, hermitian=True) < len(covariance):
        return None
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, test.T)
    log_abs_det = np.log(np.diag(factor)).sum()
    return float(0.5 * (white**2).sum(0).mean() + log_abs_det + 0.5 * len(covariance) * math.log(2 * math.pi))
