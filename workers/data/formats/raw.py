"""What all readers take and return."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.errors import DataError

__all__ = ["InputFile", "Raw", "need", "refuse", "same_type", "unreadable"]


@dataclass(frozen=True)
class InputFile:
    """A file to read: where it lies, and what the user calls it."""

    path: Path
    name: str


@dataclass(frozen=True, eq=False)
class Raw:
    """What a file holds.

    Attributes:
        values: [rows, ...] of a real dtype.
        columns: the names of a table's columns; None where the format has none.
    """

    values: NDArray[Any]
    columns: tuple[str, ...] | None = None


def need(package: str, file: InputFile) -> Any:
    """Return the module of an optional library.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f"{file.name} can't be read here: {package.split('.')[0]} is missing on the worker, `pip install "
            f"'symadj[train]'` brings it ({error})",
            file=file.name,
        ) from error


def unreadable(file: InputFile, format: str, error: Exception) -> DataError:
    """Return the error for a file that is damaged, or of another format than it is said to be."""
    return DataError(f"{file.name} can't be read as {format}: {error}", file=file.name)


def refuse(file: InputFile, what: str, *, column: str | None = None, row: int | None = None) -> DataError:
    """Return the error for a readable file with something in it that can't be used."""
    place = "" if column is None else f", column {column!r}"
    place += "" if row is None else f", row {row} (from 0)"
    return DataError(f"{file.name}{place}: {what}", file=file.name, column=column, row=row)


def same_type(file: InputFile, columns: Sequence[NDArray[Any]], names: Sequence[str]) -> NDArray[Any]:
    """Return the columns [n] side by side, [n, dim], in the narrowest dtype that holds all.

    Raises:
        DataError: a column is not numeric.
    """
    for column, name in zip(columns, names, strict=True):
        if column.dtype.kind not in "iuf" or column.ndim != 1:
            raise refuse(file, f"holds {column.dtype}, not numbers: leave it out of data.columns", column=name)
    rows = np.empty((len(columns[0]), len(columns)), np.result_type(*columns))
    for place, column in enumerate(columns):
        rows[:, place] = column
    return rows
