"""Histograms of rows as numbers, from which others draw: what `pairs.png` shows of the data, without a row of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from symadj.workers.plots.pairs import MAX_PAIR_COLUMNS, bin_edges

__all__ = ["histograms"]

Rows = NDArray[np.float64]

_MOST_BINS = 32


def histograms(rows: Rows, columns: Sequence[str], original_units: Callable[[Rows], Rows]) -> bytes:
    """Count rows by their values in each column and in each pair of columns; return JSON.

    It has ``rows`` (their number), ``columns`` (the names of the first ``MAX_PAIR_COLUMNS``), for each of these
    ``edges`` (of its bins, in the units of the data, rising) and ``counts``, and ``pairs``: a list of ``columns`` (the
    places of two) and ``counts``, a list for each bin of the first. Bins are of one width in the space that the flow
    models; rows far out are in none.

    Args:
        rows: [n, dim], in that space.
        columns: the names of the columns.
        original_units: what brings [m, dim] of that space to the units of the data, column by column.
    """
    dim = min(len(columns), MAX_PAIR_COLUMNS)
    edges = np.stack([bin_edges(rows[:, column], _MOST_BINS) for column in range(dim)], 1)
    all_columns = np.repeat(edges[:, :1], rows.shape[1], axis=1)
    all_columns[:, :dim] = edges
    with np.errstate(over="ignore"):
        shown = np.nan_to_num(original_units(all_columns)[:, :dim])
    made = {
        "rows": len(rows),
        "columns": list(columns[:dim]),
        "edges": shown.T.tolist(),
        "counts": [np.histogram(rows[:, column], edges[:, column])[0].tolist() for column in range(dim)],
        "pairs": [
            {"columns": [first, second], "counts": _counts_of_pair(rows, edges, first, second)}
            for first in range(dim)
            for second in range(first + 1, dim)
        ],
    }
    return json.dumps(made, separators=(",", ":")).encode()


def _counts_of_pair(rows: Rows, edges: Rows, first: int, second: int) -> list[list[int]]:
    counts, _, _ = np.histogram2d(rows[:, first], rows[:, second], bins=[edges[:, first], edges[:, second]])
    found: list[list[int]] = counts.astype(int).tolist()
    return found
