"""Columns of numbers: what readers of tables and of arrays share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.raw import InputFile, Raw, refuse, refuse_too_many_columns

__all__ = [
    "INEXACT",
    "LARGEST_EXACT",
    "array_of_numbers",
    "first_inexact",
    "names_asked_for",
    "native",
    "of_array",
    "of_columns",
    "of_records",
    "parts_of",
    "same_type",
    "wanted_of",
]

LARGEST_EXACT = 2**53  # whole number in float64
INEXACT = "and whole numbers above 2^53 are not exact in floating point: leave the column out or subtract an offset"

Values = NDArray[Any]


def names_asked_for(data: FileData) -> list[str] | None:
    """Return the columns to read; None for all, where the flow models whatever is not context."""
    return None if data.columns is None else [*data.columns, *data.context_columns]


def wanted_of(file: InputFile, names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """Return the columns to read of a file that has the columns ``names``.

    Raises:
        DataError: a column that is asked for is missing, or is there more than once; or there are too many.
    """
    wanted = list(names if columns is None else columns)
    refuse_too_many_columns(file, len(wanted))
    count = Counter(names)
    for name in wanted:
        if not count[name]:
            shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
            raise refuse(file, f"has no column {name!r}; it has: {shown}", column=name)
        if count[name] > 1:
            raise refuse(file, f"has more than one column {name!r}: rename them", column=name)
    if not wanted:
        raise refuse(file, "has no columns")
    return wanted


def parts_of(name: str, shape: Sequence[int]) -> list[str]:
    """Return the names of the values of one cell: ``name`` itself, or ``name[0]``, ``name[1]``, ... of a vector."""
    names = [name]
    for size in shape:
        names = [f"{outer}[{place}]" for outer in names for place in range(size)]
    return names


def native(values: Values) -> Values:
    """Return ``values`` in the machine's byte order, and booleans as 0 and 1."""
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def first_inexact(values: Values) -> int | None:
    """Return the place of the first whole number of ``values`` [n] that float64 may round, None if there is none."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not len(values):
        return None
    if values.max() <= LARGEST_EXACT and values.min() >= -LARGEST_EXACT:
        return None
    return int(np.argmax((values > LARGEST_EXACT) | (values < -LARGEST_EXACT)))


def same_type(file: InputFile, columns: Sequence[Values], names: Sequence[str]) -> Values:
    """Return the columns [n] side by side, [n, dim], in the narrowest dtype that holds all.

    Raises:
        DataError: a column is not numeric, or would be rounded.
    """
    columns = [_numeric(file, column, name) for column, name in zip(columns, names, strict=True)]
    rows = np.empty((len(columns[0]), len(columns)), np.result_type(*columns))
    for place, (column, name) in enumerate(zip(columns, names, strict=True)):
        if column.dtype != rows.dtype and (at := first_inexact(column)) is not None:
            raise refuse(file, f"is {column[at]}, {INEXACT}", column=name, row=at)
        rows[:, place] = column
    return rows


def _numeric(file: InputFile, column: Values, name: str) -> Values:
    if column.dtype.kind not in "biuf" or column.ndim != 1:
        what = f"holds {column.dtype}" if column.ndim == 1 else f"holds arrays of {column.dtype}"
        raise refuse(file, f"{what}, not numbers: leave it out of data.columns", column=name)
    return native(column)


def of_columns(
    file: InputFile,
    names: Sequence[str],
    columns: Sequence[str] | None,
    read: Callable[[str], Values],
    left_out: Mapping[str, str] | None = None,
) -> Raw:
    """Return the ``columns`` (None: all but those left out) of a table.

    Args:
        names: of all columns of the table.
        columns: those that are asked for.
        read: returns the column [n] of a name; is asked for wanted ones only.
        left_out: what those columns are that are read only if they are asked for, for the notes.
    """
    aside = left_out or {}
    wanted = wanted_of(file, names, [name for name in names if name not in aside] if columns is None else columns)
    notes = [f"column {name!r}, {what}, was left out" for name, what in aside.items() if columns is None]
    values = [read(name) for name in wanted]
    stored = tuple(column.dtype.name for column in values)
    return Raw(same_type(file, values, wanted), tuple(wanted), tuple(notes), stored)


def of_array(file: InputFile, array: Values, columns: Sequence[str] | None = None) -> Raw:
    """Return an array of rows; of a structured one, its fields ``columns`` (None: all)."""
    if np.ndim(array) == 0:
        raise refuse(file, "holds a single value, not an array of rows")
    if array.dtype.names:
        return of_records(file, array, columns)
    return Raw(array_of_numbers(file, array), stored=array.dtype.name)


def array_of_numbers(file: InputFile, array: Values) -> Values:
    """Return ``array``, whose values must be real numbers, in the machine's byte order."""
    if array.dtype.kind not in "biuf":
        what = "text, or rows of several lengths" if array.dtype.kind == "O" else array.dtype
        raise refuse(file, f"holds {what}, not real numbers")
    return native(array)


def of_records(file: InputFile, records: Values, columns: Sequence[str] | None) -> Raw:
    """Return the fields ``columns`` (None: all) of a structured array [n], those of vectors as their numbers."""
    if records.ndim != 1:
        shape = " x ".join(map(str, records.shape))
        raise refuse(file, f"holds {shape} records, not one row of them: a table has one record a row")
    refuse_too_many_columns(file, sum(math.prod(records.dtype[field].shape) for field in records.dtype.names or ()))
    places = {
        part: (field, place)
        for field in records.dtype.names or ()
        for place, part in enumerate(parts_of(field, records.dtype[field].shape))
    }
    names = [part for field in records.dtype.names or () for part in parts_of(field, records.dtype[field].shape)]

    def read(name: str) -> Values:
        field, place = places[name]
        values: Values = records[field].reshape(len(records), -1)
        return values[:, place]

    return of_columns(file, names, columns, read)
