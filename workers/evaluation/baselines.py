"""Classical densities fitted on the same split, to judge a flow's test likelihood by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

__all__ = ["fit_baselines"]

Rows = NDArray[np.float64]


def fit_baselines(training: Rows, test: Rows, components: int, seed: int, threads: int) -> dict[str, Any]:
    """Fit a Gaussian and a Gaussian mixture with full covariances, and return their test NLL.

    Both are fitted on all training rows. The mixture is scikit-learn's: expectation-maximisation in float32, the
    better of two k-means starts drawn with ``seed``; another seed may find another optimum.

    Args:
        training: [n, dim].
        test: [m, dim], in the same space.
        components: of the mixture.
        seed: of the mixture's start.
        threads: that linear algebra may use; left alone it takes all cores, the other ranks' too.

    Returns:
        ``{"gaussian": nll, "gaussian_mixture": {"components": k, "test_nll": nll}}`` in nats a row. A Gaussian whose
        covariance is singular (a column is a sum of others, say) has null, and so has a mixture with more components
        than training rows.
    """
    with threadpool_limits(threads):
        return {
            "gaussian": _gaussian_nll(training, test),
            "gaussian_mixture": {
                "components": components,
                "test_nll": _mixture_nll(training, test, components, seed) if components <= len(training) else None,
            },
        }


def _mixture_nll(training: Rows, test: Rows, components: int, seed: int) -> float:
    from sklearn.mixture import GaussianMixture  # takes a second to import, and most processes never fit one

    mixture = GaussianMixture(components, n_init=2, random_state=seed).fit(training.astype(np.float32))
    return -float(mixture.score(test.astype(np.float32)))


def _gaussian_nll(training: Rows, test: Rows) -> float | None:
    dim = training.shape[1]
    covariance = np.cov(training.T, bias=True).reshape(dim, dim)
    if np.linalg.matrix_rank(covariance, hermitian=True) < dim:
        return None
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, (test - training.mean(0)).T)
    log_abs_det = np.log(np.diag(factor)).sum()
    return float(0.5 * (white**2).sum(0).mean() + log_abs_det + 0.5 * dim * math.log(2 * math.pi))
