"""Tables with named columns: csv and parquet."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.raw import (
    InputFile,
    Raw,
    is_gzipped,
    need,
    open_unpacked,
    reading,
    reads,
    refuse,
    refuse_larger_than_memory,
)

__all__ = ["MISCOUNTED", "dtype_of", "names_of", "numbers", "read_csv", "read_parquet", "wanted_of"]

MISCOUNTED = "does not hold the rows that it announces"
# What pandas calls an index that it stores beside the columns: the rows' numbers, no measurement.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
_NOT_A_NUMBER = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", re.DOTALL)
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")


def read_csv(
    file: InputFile,
    columns: Sequence[str] | None = None,
    *,
    header: bool = True,
    names: Sequence[str] | None = None,
) -> Raw:
    """Read ``columns`` (None: all) of a comma-separated file, gzipped or not, as float64. Empty cells become NaN.

    Without a header the columns are ``x0``, ``x1`` and so on. ``names`` are taken instead of those in the header.
    """
    pyarrow, arrow_csv = need("pyarrow", file), need("pyarrow.csv", file)
    first = _first_line(file)
    if header:
        _refuse_no_header(file, first)
    renamed = names is not None or not header
    names = list(names or (first if header else [f"x{place}" for place in range(len(first))]))
    wanted = wanted_of(file, names, columns)
    if "" in wanted:
        raise refuse(
            file,
            f"column {wanted.index('')} (from 0) has no name (pandas writes its index so, unless told index=False): "
            "choose others by data.columns",
        )
    with reading(file, "csv"):
        try:
            with pyarrow.input_stream(file.path, compression="gzip" if is_gzipped(file) else None) as stream:
                table = arrow_csv.read_csv(
                    stream,
                    # One thread: only then does an error know its row.
                    read_options=arrow_csv.ReadOptions(
                        use_threads=False,
                        column_names=names if renamed else None,
                        skip_rows=int(renamed and header),
                    ),
                    convert_options=arrow_csv.ConvertOptions(
                        include_columns=wanted, column_types={name: pyarrow.float64() for name in wanted}
                    ),
                )
        except pyarrow.ArrowInvalid as error:
            _explain(file, error, names, header)
        rows = np.empty((len(table), len(wanted)))
        for place, name in enumerate(wanted):
            rows[:, place] = table[name].to_numpy()
        return Raw(rows, tuple(wanted))


def read_parquet(file: InputFile, columns: Sequence[str] | None = None) -> Raw:
    """Read ``columns`` (None: all but an index of pandas') of a parquet file. Missing values are refused."""
    parquet = need("pyarrow.parquet", file)
    with reading(file, "parquet"), parquet.ParquetFile(file.path) as opened:
        schema, total = opened.schema_arrow, opened.metadata.num_rows
        wanted = wanted_of(file, schema.names, columns or names_of(schema))
        dtype = dtype_of(file, schema, wanted)
        refuse_larger_than_memory(file, total * len(wanted) * dtype.itemsize)
        rows = np.empty((total, len(wanted)), dtype)
        # A column of a row group at a time: a copy of all in Arrow would be as large again, and Arrow keeps it.
        for place, name in enumerate(wanted):
            done = 0
            for group in range(opened.num_row_groups):
                column = opened.read_row_group(group, columns=[name])[name]
                if len(column) != opened.metadata.row_group(group).num_rows or done + len(column) > total:
                    raise refuse(file, MISCOUNTED)
                rows[done : done + len(column), place] = numbers(file, column, name, done)
                done += len(column)
            if done < total:
                raise refuse(file, MISCOUNTED)
        return Raw(rows, tuple(wanted))


def names_of(schema: Any) -> list[str]:
    """Return the names of the columns of an Arrow schema, without an index that pandas has stored beside them."""
    return [name for name in schema.names if not _PANDAS_INDEX.fullmatch(name)]


def dtype_of(file: InputFile, schema: Any, columns: Sequence[str]) -> np.dtype[Any]:
    """Return the narrowest dtype that holds all ``columns`` of an Arrow schema.

    Raises:
        DataError: a column is not numeric.
    """
    pyarrow = need("pyarrow", file)
    none = {name: pyarrow.chunked_array([], type=schema.field(name).type) for name in columns}
    return np.result_type(*{numbers(file, column, name).dtype for name, column in none.items()})


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
    count = Counter(names)
    wanted = list(names if columns is None else columns)
    for name in wanted:
        if not count[name]:
            shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
            raise refuse(file, f"has no column {name!r}; it has: {shown}", column=name)
        if count[name] > 1:
            raise refuse(file, f"has more than one column {name!r}: rename them", column=name)
    if not wanted:
        raise refuse(file, "has no columns")
    return wanted


def _first_line(file: InputFile) -> list[str]:
    with reading(file, "csv"), open_unpacked(file) as stream:
        for cells in csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")):
            if cells:
                return cells
    raise refuse(file, "is empty")


def _refuse_no_header(file: InputFile, first: Sequence[str]) -> None:
    """Refuse a first line that hardly names columns."""
    if all(map(_is_number, first)):
        raise refuse(
            file,
            "has numbers in its first line, which should name the columns: if they are a row, set data.header to "
            "false; if they are names (as pandas gives them), give others",
        )
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(first) == 1 and separator in first[0]:
            raise refuse(file, f"has {name} in its first line: values are to be separated by commas, 1.5 is written so")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _explain(file: InputFile, error: Exception, names: Sequence[str], header: bool) -> NoReturn:
    """Raise what Arrow says in words of ours, where it is about a row."""
    words = str(error)
    # Arrow counts lines from 1, the header among them.
    first = 1 + int(header)
    if found := _NOT_A_NUMBER.search(words):
        what = f"{found[3][:100]!r} is not a number"
        raise refuse(file, what, column=names[int(found[1])], row=int(found[2]) - first) from error
    if found := _RAGGED.search(words):
        raise refuse(file, f"{found[3]} values, where {found[2]} are expected", row=int(found[1]) - first) from error
    raise error


@reads("csv")
def _csv(file: InputFile, data: FileData) -> Raw:
    return read_csv(file, _named(data), header=data.header)


@reads("parquet")
def _parquet(file: InputFile, data: FileData) -> Raw:
    return read_parquet(file, _named(data))


def _named(data: FileData) -> list[str] | None:
    """Return the columns to read: all (None) where the context is to be taken away from them."""
    return None if data.columns is None else [*data.columns, *data.context_columns]
