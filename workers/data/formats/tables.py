"""Tables with named columns: csv and parquet."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from workers.data.formats.raw import InputFile, Raw, need, refuse, same_type, unreadable

__all__ = ["numbers", "read_csv", "read_parquet", "wanted_of"]

_NOT_A_NUMBER = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", re.DOTALL)
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


def read_csv(file: InputFile, columns: Sequence[str] | None = None, *, header: bool = True) -> Raw:
    """Read ``columns`` (None: all) of a comma-separated file, gzipped or not, as float64. Empty cells become NaN.

    Without a header the columns are ``x0``, ``x1`` and so on.
    """
    pyarrow, arrow_csv = need("pyarrow", file), need("pyarrow.csv", file)
    first = _first_line(file)
    names = first if header else [f"x{place}" for place in range(len(first))]
    if header and all(map(_is_number, first)):
        raise refuse(file, "has numbers in its first line, which should name the columns: set data.header to false")
    wanted = wanted_of(file, names, columns)
    try:
        table = arrow_csv.read_csv(
            file.path,
            # One thread: only then does an error know its row.
            read_options=arrow_csv.ReadOptions(use_threads=False, column_names=None if header else names),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=wanted, column_types={name: pyarrow.float64() for name in wanted}
            ),
        )
    except pyarrow.ArrowException as error:
        _explain(file, str(error), names, header, error)
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, "csv", error) from error
    return Raw(same_type(file, [table[name].to_numpy() for name in wanted], wanted), tuple(wanted))


def read_parquet(file: InputFile, columns: Sequence[str] | None = None) -> Raw:
    """Read ``columns`` (None: all) of a parquet file. Missing values are refused."""
    pyarrow, parquet = need("pyarrow", file), need("pyarrow.parquet", file)
    try:
        with parquet.ParquetFile(file.path) as opened:
            wanted = wanted_of(file, opened.schema_arrow.names, columns)
            table = opened.read(columns=wanted)
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(file, "parquet", error) from error
    return Raw(same_type(file, [numbers(file, table[name], name) for name in wanted], wanted), tuple(wanted))


def numbers(file: InputFile, column: Any, name: str, first_row: int = 0) -> NDArray[Any]:
    """Return an Arrow column as an array [n] of its own dtype (decimals in float64).

    Raises:
        DataError: it is not numeric, or a value is missing; rows are counted from ``first_row``.
    """
    pyarrow = need("pyarrow", file)
    kind = column.type
    if pyarrow.types.is_decimal(kind):
        column = column.cast(pyarrow.float64())
    elif not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        raise refuse(file, f"holds {kind}, not numbers: leave it out of data.columns", column=name)
    if column.null_count:
        row = first_row + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise refuse(file, "the value is missing: remove or fill such rows", column=name, row=row)
    return np.asarray(column.to_numpy())


def wanted_of(file: InputFile, names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """Return the columns to read of a file that has the columns ``names``.

    Raises:
        DataError: a column that is asked for is missing, or is there more than once.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    wanted = list(names if columns is None else columns)
    for name in wanted:
        if name not in names:
            shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
            raise refuse(file, f"has no column {name!r}; it has: {shown}", column=name)
        if name in twice:
            raise refuse(file, f"has more than one column {name!r}: rename them", column=name)
    if not wanted:
        raise refuse(file, "has no columns")
    return wanted


def _first_line(file: InputFile) -> list[str]:
    opener = gzip.open if file.path.suffix == ".gz" else open
    try:
        with opener(file.path, "rt", encoding="utf-8-sig", newline="") as stream:
            for cells in csv.reader(stream):
                if cells:
                    return cells
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise unreadable(file, "csv", error) from error
    raise refuse(file, "is empty")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _explain(file: InputFile, words: str, names: Sequence[str], header: bool, error: Exception) -> NoReturn:
    # Arrow counts lines from 1, the header among them.
    first = 1 + int(header)
    if found := _NOT_A_NUMBER.search(words):
        what = f"{found[3][:100]!r} is not a number"
        raise refuse(file, what, column=names[int(found[1])], row=int(found[2]) - first) from error
    if found := _RAGGED.search(words):
        raise refuse(file, f"{found[3]} values, where {found[2]} are expected", row=int(found[1]) - first) from error
    raise unreadable(file, "csv", error) from error
