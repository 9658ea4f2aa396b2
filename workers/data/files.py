"""Rows of the user's own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.checks import refuse_not_finite
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.columns import wanted_of
from symadj.workers.data.formats.raw import READERS, InputFile, Raw, refuse, refuse_too_many_columns
from symadj.workers.data.roots import DataRoots
from symadj.workers.data.table import Source, Table

__all__ = ["load_file", "table_of"]

_MOST_CHANNELS = 4  # red, green, blue, alpha


def load_file(data: FileData, roots: DataRoots, *, unnamed: Sequence[str] = ()) -> Table:
    """Read the file, or the two, that ``data`` names.

    Args:
        unnamed: names for the columns of a file that has none, if it has as many of them and they are not called so.

    Raises:
        DataError: a file is missing, unreadable or empty, a column is missing or not numeric, or the test file has
            other columns than the first.
    """
    table = _load(data, roots, data.path, unnamed)
    if data.test_path is None:
        return table
    test = _load(data, roots, data.test_path, unnamed)
    if (test.columns, test.context_columns, test.shape) != (table.columns, table.context_columns, table.shape):
        raise DataError(
            f"{data.test_path} has {len(test.columns)} columns ({_listed(test.columns)}), {data.path} has "
            f"{len(table.columns)} ({_listed(table.columns)}): the test rows must have the same",
            file=data.test_path,
        )
    if test.rows.dtype != table.rows.dtype:  # before whole numbers are rounded side by side with fractions
        refuse_not_finite(table)
        refuse_not_finite(test)
    first_row = len(table.rows)
    contexts = [part.context for part in (table, test) if part.context is not None]
    return Table(
        table.columns,
        np.concatenate([table.rows, test.rows]),
        table.context_columns,
        np.concatenate(contexts) if contexts else None,
        table.shape,
        test_from=first_row,
        sources=(*table.sources, *(replace(source, first_row=first_row) for source in test.sources)),
    )


def _load(data: FileData, roots: DataRoots, name: str, unnamed: Sequence[str]) -> Table:
    file = roots.find_file(name)
    if data.format not in READERS:
        raise DataError(
            f"{name}: files of format {data.format} can't be read by this worker, which reads {', '.join(READERS)}: "
            "install the same symadj on all nodes",
            file=name,
        )
    return table_of(file, READERS[data.format](file, data), data, unnamed)


def table_of(file: InputFile, raw: Raw, data: FileData, unnamed: Sequence[str] = ()) -> Table:
    """Return what ``data`` asks for of what a file holds; ``unnamed`` as for ``load_file``.

    Raises:
        DataError: there are no rows, or a column is missing.
    """
    name = file.name
    if not len(raw.values):
        raise DataError(f"{name} has no rows", file=name)
    shape: tuple[int, ...] = raw.values.shape[1:]
    rows = raw.values.reshape(len(raw.values), -1)
    if not rows.shape[1]:
        raise DataError(f"{name} has no columns", file=name)
    refuse_too_many_columns(file, rows.shape[1])
    if rows.dtype.itemsize > 8:
        rows = rows.astype(np.float64)  # numpy's longdouble
    numbered = tuple(f"x{place}" for place in range(rows.shape[1]))
    names = raw.columns or numbered
    if raw.columns is None and not {*unnamed} <= {*numbered}:
        if len(unnamed) != len(names):
            what = f"has {len(names)} columns without names, and {len(unnamed)} are needed: {_listed(unnamed)}"
            raise refuse(file, what)
        names = tuple(unnamed)
    context_columns = data.context_columns
    columns = data.columns or tuple(column for column in names if column not in context_columns)
    if not columns:
        raise DataError(f"{name} has no column beside data.context_columns", file=name)
    wanted_of(file, names, [*columns, *context_columns])
    kinds = raw.stored or raw.values.dtype.name
    stored = dict(zip(names, [kinds] * len(names) if isinstance(kinds, str) else kinds, strict=True))
    places = {column: place for place, column in enumerate(names)}
    chosen = rows if columns == names else rows[:, [places[column] for column in columns]]
    return Table(
        columns,
        chosen,
        context_columns,
        rows[:, [places[column] for column in context_columns]] if context_columns else None,
        _image(file, shape) if columns == names else None,
        sources=(Source(name, 0, raw.notes, tuple(stored[column] for column in (*columns, *context_columns))),),
    )


def _image(file: InputFile, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return (channels, height, width) of rows of more than one axis."""
    match shape:
        case (height, width):
            return 1, height, width
        case (channels, height, width):
            if width <= _MOST_CHANNELS < channels:
                raise DataError(
                    f"{file.name} holds rows of {channels} x {height} x {width} values, which look like [height, "
                    "width, channels]: images are [rows, channels, height, width]",
                    file=file.name,
                )
            return channels, height, width
        case () | (_,):
            return None
    raise DataError(
        f"{file.name} holds rows of {len(shape)} axes: [rows, dim], [rows, height, width] and [rows, channels, height, "
        "width] can be used",
        file=file.name,
    )


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:10]) + (", ..." if len(columns) > 10 else "")
