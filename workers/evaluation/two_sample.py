"""Two-sample test: can a classifier tell the flow's samples from held-out rows? (Lopez-Paz and Oquab, ICLR 2017)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from symadj.service.contract.result import TwoSampleTest

__all__ = ["FEWEST_ROWS", "two_sample_test"]

Rows = NDArray[np.float64]

# Fewer rows are too few to learn from.
FEWEST_ROWS = 40


def two_sample_test(data: Rows, samples: Rows, seed: int, threads: int) -> TwoSampleTest:
    """Train gradient-boosted trees on half of the rows and as many samples, and test them on the other halves.

    A row and the sample of the same number are in the same half. So, where both have the row's context, the trees are
    never tested on the context of a row that they were trained on.

    Args:
        data: [n, dim], held-out rows; n at least ``FEWEST_ROWS``.
        samples: [n, dim], of the flow, in the same space.
        seed: of the split into halves and of the trees.
        threads: that the trees may use.

    Returns:
        how well the trees distinguish them; the standard errors are binomial and DeLong's (Biometrics 1988).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # takes a second to import

    half = len(data) // 2
    order = np.random.default_rng(seed).permutation(len(data))
    data, samples = data[order], samples[order]
    classifier = HistGradientBoostingClassifier(random_state=seed)
    with threadpool_limits(threads):
        classifier.fit(np.concatenate([data[:half], samples[:half]]), np.repeat([0, 1], half))
        of_data, of_samples = (classifier.predict_proba(rows[half:])[:, 1] for rows in (data, samples))
    correct = np.concatenate([of_data < 0.5, of_samples >= 0.5])
    accuracy = float(correct.mean())
    auc, auc_stderr = _auc(of_data, of_samples)
    return TwoSampleTest(
        rows=len(data) - half,
        accuracy=accuracy,
        accuracy_stderr=math.sqrt(accuracy * (1 - accuracy) / len(correct)),
        auc=auc,
        auc_stderr=auc_stderr,
    )


def _auc(low: Rows, high: Rows) -> tuple[float, float]:
    """Return P(low < high), ties counted half, and its standard error."""
    from scipy.stats import rankdata  # as slow to import

    ranks = rankdata(np.concatenate([low, high]))
    # For each value, the share of the other group that it is on the correct side of.
    of_high = (ranks[len(low) :] - rankdata(high)) / len(low)
    of_low = 1 - (ranks[: len(low)] - rankdata(low)) / len(high)
    variance = of_high.var(ddof=1) / len(high) + of_low.var(ddof=1) / len(low)
    return float(of_high.mean()), math.sqrt(variance)
