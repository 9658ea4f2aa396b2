"""What makes data unfit for training, found before any training, with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.columns import INEXACT, LARGEST_EXACT
from symadj.workers.data.table import Table, pieces
from symadj_core.transforms import FittedTransform

__all__ = ["LARGEST", "TrainingColumns", "of_file", "refuse_not_finite", "refuse_untransformable"]

# Flows are trained in single precision unless the spec says otherwise.
LARGEST = np.float64(np.finfo(np.float32).max)


def refuse_not_finite(table: Table) -> None:
    """Raise ``DataError`` with the place of the first value that is NaN, infinite, or beyond what floats can hold."""
    for columns, values in _of_both(table):
        whole = values.dtype.kind != "f"
        if whole and values.dtype.itemsize < 8:
            continue
        for piece in pieces(*values.shape):
            if whole:
                bad = (values[piece] > LARGEST_EXACT) | (values[piece] < -LARGEST_EXACT)
            else:
                bad = ~(np.abs(values[piece]) <= LARGEST)
            if bad.any():
                row, column = _first(bad, piece)
                _refuse(table, row, columns[column], f"is {values[row, column]}, {_unfit(values[row, column])}")


def _unfit(value: Any) -> str:
    if isinstance(value, np.integer):
        return INEXACT
    if np.isfinite(value):
        return f"too large for single precision (at most {LARGEST:.2g}): choose another unit"
    return "which is not finite: remove or repair such rows"


class TrainingColumns:
    """Looks for columns that have no density over the training rows: they never change, or repeat another column.

    The rows are shown some at a time, so that they need not fit into memory.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._rows = 0
        self._first: NDArray[Any] = np.empty(0)
        self._constant = np.ones(len(columns), bool)
        # Groups of columns that were equal in all rows so far.
        self._equal = [list(range(len(columns)))]

    def see(self, rows: NDArray[Any]) -> None:
        """Look at ``rows`` [n, dim]."""
        if not len(rows):
            return
        if not self._rows:
            self._first = rows[0]
        self._rows += len(rows)
        self._constant &= (rows == self._first).all(0)
        split: list[list[int]] = []
        for group in self._equal:
            same: dict[bytes, list[int]] = {}
            for place in group:
                same.setdefault((rows[:, place] + 0).tobytes(), []).append(place)  # adding 0 takes the sign from -0.0
            split += [places for places in same.values() if len(places) > 1]
        self._equal = split

    def refuse_constant(self, file: str | None) -> None:
        """Raise ``DataError`` with the first column that never changed."""
        if not self._constant.any():
            return
        at = int(np.argmax(self._constant))
        self._refuse(
            at,
            file,
            f"has the value {self._first[at]:g} in all {self._rows} training rows; a constant column has no density: "
            "leave it out",
        )

    def refuse_repeated(self, file: str | None) -> None:
        """Raise ``DataError`` with the first column that always equalled an earlier one."""
        if self._equal:
            earlier, at, *_ = self._equal[0]
            self._refuse(
                at,
                file,
                f"equals column {self._columns[earlier]!r} in all {self._rows} training rows; together they have no "
                "density: leave one of them out",
            )

    def _refuse(self, at: int, file: str | None, what: str) -> NoReturn:
        raise DataError(f"column {self._columns[at]!r}{of_file(file)} {what}", file=file, column=self._columns[at])


def refuse_untransformable(table: Table, transforms: tuple[FittedTransform, ...]) -> None:
    """Raise ``DataError`` with the place of the first value that ``transforms`` can't take.

    All rows are transformed once, so that none is found unfit in the middle of training. Dequantisation's noise is
    left out: the transforms after it take all of [0, 1) where they take 0.
    """
    for piece in pieces(*table.rows.shape):
        raw = rows = table.rows[piece].astype(np.float64)
        for transform in transforms:
            misfits = transform.misfits(rows)
            if misfits is not None and misfits[0].any():
                row, column = _first(misfits[0], piece)
                kind = transform.parameters()["kind"]
                at = f"is {table.rows[row, column]:g} and comes to {kind} as {rows[row - piece.start, column]:g}"
                _refuse(table, row, table.columns[column], f"{at}; {misfits[1]}")
            rows, _ = transform(rows)
        bad = ~(np.abs(rows) <= LARGEST)
        if bad.any():
            row, column = _first(bad, piece)
            values = f"is {raw[row - piece.start, column]:g}, and {rows[row - piece.start, column]:g} when transformed"
            _refuse(table, row, table.columns[column], f"{values}: too large for single precision")


def _of_both(table: Table) -> list[tuple[tuple[str, ...], NDArray[Any]]]:
    """Return names and values of the columns, and of the context's."""
    context = np.empty((len(table.rows), 0)) if table.context is None else table.context
    return [(table.columns, table.rows), (table.context_columns, context)]


def _first(bad: NDArray[np.bool_], piece: slice) -> tuple[int, int]:
    row, column = np.argwhere(bad)[0]
    return piece.start + int(row), int(column)


def _refuse(table: Table, row: int, column: str, what: str) -> NoReturn:
    file, row = table.place(row)
    raise DataError(
        f"row {row} (from 0), column {column!r}{of_file(file)} {what}",
        file=file,
        column=column,
        row=row,
    )


def of_file(file: str | None) -> str:
    """Return " of FILE" for a message, nothing where no file is known."""
    return "" if file is None else f" of {file}"
