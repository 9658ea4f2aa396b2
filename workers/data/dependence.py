"""Columns that are linear in others, so that all rows lie in a hyperplane, where a density has no meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.checks import LARGEST

__all__ = ["LinearDependence"]

Array = NDArray[np.float64]

# Products of values, for about a second of one core; of more rows, every so many are looked at.
_MOST_WORK = 5 * 10**9
# Of more columns, nothing is said.
_MOST_COLUMNS = 1000
# Of columns with unit variance: a combination that varies no more than this never changes, but for rounding in float32.
_SMALLEST_SPREAD = 1e-5
# A share in such a combination that is not rounding.
_SMALLEST_SHARE = 1e-4
_MOST_TOLD, _MOST_NAMED = 3, 5


class LinearDependence:
    """Looks for combinations of columns that never change: a one-hot code's sum, a total beside its parts.

    The rows are shown some at a time. What is looked at is the rank of the covariance of the standardised columns.

    Args:
        columns: their names.
        rows: how many there are in all.
    """

    def __init__(self, columns: Sequence[str], rows: int) -> None:
        dim = len(columns)
        self._columns = columns
        self._every = max(1, rows * dim**2 // _MOST_WORK) if dim <= _MOST_COLUMNS else 0
        self._rows = 0
        self._mean = np.zeros(dim)
        self._products = np.zeros((dim, dim) if self._every else (0, 0))

    def see(self, rows: NDArray[Any]) -> None:
        """Look at ``rows`` [n, dim]; those with values that a run refuses are left out."""
        if not self._every:
            return
        values = rows[:: self._every].astype(np.float64)
        values = values[(np.abs(values) <= LARGEST).all(1)]
        if not len(values):
            return
        # The update of Chan, Golub and LeVeque (1983), of all products.
        here = values.mean(0)
        around, apart = values - here, here - self._mean
        total = self._rows + len(values)
        self._products += around.T @ around + np.outer(apart, apart) * (self._rows * len(values) / total)
        self._mean += apart * (len(values) / total)
        self._rows = total

    def remarks(self) -> list[str]:
        """Return a sentence for each of the combinations found, at most so many, with the names of its columns."""
        found = self._found()
        remarks = [
            f"linearly dependent columns: {_named(names)}; to five digits each is a weighted sum of the others and a "
            "constant, so together they have no density, and a flow's NLL has no meaning: leave one of them out"
            for names in found[:_MOST_TOLD]
        ]
        more = len(found) - _MOST_TOLD
        return remarks if more <= 0 else [*remarks, f"{more:,} more sets of linearly dependent columns"]

    def _found(self) -> list[list[str]]:
        """Return the columns of each combination that never changes."""
        if not self._every:
            return []
        spread = np.sqrt(np.diag(self._products))
        places = np.flatnonzero(spread > 0)  # one that never changes is remarked on by itself
        if self._rows <= len(places):  # so few rows always lie in a hyperplane
            return []
        correlation = (self._products / np.outer(spread, spread).clip(min=np.finfo(float).tiny))[np.ix_(places, places)]
        values, vectors = np.linalg.eigh(correlation)
        combinations = _reduced(vectors[:, values < _SMALLEST_SPREAD**2].T)
        return [
            [self._columns[places[at]] for at in np.flatnonzero(np.abs(combination) > _SMALLEST_SHARE)]
            for combination in combinations[::-1]
        ]


def _reduced(rows: Array) -> Array:
    """Return the reduced row echelon form of ``rows`` [k, d] of rank k, from the last column on.

    Each row then has the fewest entries: a column that no other row has, and those that it depends on.
    """
    rows, done = rows[:, ::-1].copy(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        pivot = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[pivot, column]) < _SMALLEST_SHARE:
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        done += 1
    return rows[:, ::-1]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_NAMED]))
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED:,} more"
