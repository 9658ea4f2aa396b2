"""What makes data unfit for training, found before any training, with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from workers.data.errors import DataError
from workers.data.table import Table, pieces
from workers.data.transforms import FittedTransform

__all__ = ["of_file", "refuse_constant", "refuse_not_finite", "refuse_unchanging", "refuse_untransformable"]

Index = NDArray[np.int64]


def refuse_not_finite(table: Table) -> None:
    """Raise ``DataError`` with the place of the first value that is NaN or infinite."""
    for columns, values in _of_both(table):
        if not np.issubdtype(values.dtype, np.floating):
            continue
        for piece in pieces(*values.shape):
            bad = ~np.isfinite(values[piece])
            if bad.any():
                row, column = _first(bad, piece)
                advice = "remove or repair such rows"
                _refuse(table, row, columns[column], f"is {values[row, column]}, which is not finite: {advice}")


def refuse_constant(table: Table, training: Index, *, context: bool) -> None:
    """Raise ``DataError`` with the first column, or column of the context, that never changes in ``training``."""
    columns, values = _of_both(table)[int(context)]
    first = values[training[0]]
    differs = np.zeros(len(columns), bool)
    for piece in pieces(len(training), len(columns)):
        differs |= (values[training[piece]] != first).any(0)
    file, _ = table.place(0)
    refuse_unchanging(columns, differs, first, len(training), file)


def refuse_unchanging(
    columns: Sequence[str], differs: NDArray[np.bool_], first: NDArray[Any], rows: int, file: str | None
) -> None:
    """Raise ``DataError`` with the first column whose values in ``rows`` training rows never differ from ``first``."""
    if differs.all():
        return
    at = int(np.argmin(differs))
    raise DataError(
        f"column {columns[at]!r}{of_file(file)} has the value {first[at]:g} in all {rows} training rows; a constant "
        "column has no density: leave it out",
        file=file,
        column=columns[at],
    )


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
        bad = ~np.isfinite(rows)
        if bad.any():
            row, column = _first(bad, piece)
            value = raw[row - piece.start, column]
            _refuse(table, row, table.columns[column], f"is {value:g}, too large for the transforms")


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
