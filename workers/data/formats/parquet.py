"""Parquet: the columns of a file, and their numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.columns import (
    INEXACT,
    LARGEST_EXACT,
    first_inexact,
    names_asked_for,
    parts_of,
    wanted_of,
)
from symadj.workers.data.formats.raw import (
    InputFile,
    Raw,
    need,
    reading,
    reads,
    refuse,
    refuse_larger_than_memory,
    refuse_too_many_columns,
)

__all__ = ["MISCOUNTED", "ParquetColumns", "fill", "read_parquet"]

MISCOUNTED = "does not hold the rows that it announces"
# What pandas calls an index without a name, where the footer no longer says that it is one.
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
_EXTENSION = b"ARROW:extension:name"
_TENSOR = "arrow.fixed_shape_tensor"
_WIDEST_VECTOR = 100_000

# Columns of rows, and for each the place in the vectors that fill it; None where they are numbers.
Places = list[tuple[int, int | None]]


class ParquetColumns:
    """The columns of a parquet file, by the names that a spec has for them.

    A column of vectors (FixedSizeList) is as many columns, ``name[0]``, ``name[1]`` and so on.

    Attributes:
        names: of all columns.
        offered: of those that are read where none are asked for: all but an index that pandas stored beside them.
    """

    def __init__(self, file: InputFile, schema: Any) -> None:
        self._file, self._schema = file, schema
        index = _pandas_index(schema)
        self._ranges = {entry["name"]: entry for entry in index if isinstance(entry, dict) and "name" in entry}
        self.names: list[str] = []
        self.offered: list[str] = []
        self._index: list[str] = []
        # The file's column that a name stands for, and the place in its vectors, None where it has numbers.
        self._places: dict[str, tuple[str, int | None]] = {}
        for field in schema:
            size = _vector_size(self._file, field.type)
            parts = [field.name] if size is None else parts_of(field.name, [size])
            self.names += parts
            refuse_too_many_columns(file, len(self.names))
            if field.name in index or _UNNAMED_INDEX.fullmatch(field.name):
                self._index.append(field.name)
            else:
                self.offered += parts
            self._places |= {part: (field.name, None if size is None else at) for at, part in enumerate(parts)}

    def wanted(self, columns: Sequence[str] | None) -> list[str]:
        """Return the columns to read where ``columns`` (None: all that are offered) are asked for.

        Raises:
            DataError: one is missing, or is there more than once.
        """
        self.refuse_range(columns or ())
        if columns is None and not self.offered and self._index:
            raise refuse(
                self._file,
                f"has no columns but pandas' stored index ({', '.join(self._index)}): name columns by data.columns",
            )
        return wanted_of(self._file, self.names, self.offered if columns is None else columns)

    def refuse_range(self, columns: Sequence[str]) -> None:
        """Raise ``DataError`` for an index of pandas' that is asked for, and of which the file has the range alone."""
        for name in columns:
            if name in self._ranges and name not in self._places:
                span = ", ".join(f"{key} {self._ranges[name].get(key)}" for key in ("start", "stop", "step"))
                raise refuse(
                    self._file,
                    f"has no column {name!r}, which is pandas' index: the file holds its range alone ({span}); call "
                    "reset_index() before to_parquet() to store it as a column",
                    column=name,
                )

    def notes(self) -> tuple[str, ...]:
        """Return what is left out where no columns are asked for."""
        return tuple(f"column {name!r}, pandas' stored index, was left out" for name in self._index)

    def places(self, wanted: Sequence[str], beside: Collection[str] = ()) -> dict[str, Places]:
        """Return the file's columns that hold those ``wanted``, and where each of them goes.

        Args:
            beside: names of columns that the file does not hold.
        """
        places: dict[str, Places] = {}
        for at, name in enumerate(wanted):
            if name not in beside:
                field, within = self._places[name]
                places.setdefault(field, []).append((at, within))
        return places

    def stored(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Return the type of each column ``wanted`` as the file has it."""
        return tuple(_type_name(self._file, self._schema.field(self._places[name][0]).type) for name in wanted)

    def dtype(self, wanted: Sequence[str]) -> np.dtype[Any]:
        """Return the narrowest dtype that holds all columns ``wanted``.

        Raises:
            DataError: a column is not numeric.
        """
        pyarrow = need("pyarrow", self._file)
        dtypes = []
        for name in self.places(wanted):
            field = self._schema.field(name)
            extension = (field.metadata or {}).get(_EXTENSION, _TENSOR.encode()).decode(errors="replace")
            if extension != _TENSOR:  # else its storage would be read, such as the numbers of pandas' periods
                raise refuse(
                    self._file, f"holds {extension}, not numbers: leave it out of data.columns", column=field.name
                )
            dtypes.append(_numbers(self._file, pyarrow.chunked_array([], type=field.type), name).dtype)
        return np.result_type(*dtypes)


def fill(file: InputFile, rows: NDArray[Any], column: Any, name: str, places: Places, first_row: int) -> None:
    """Put an Arrow column [n] of the file, or the vectors in it, into columns of ``rows`` [n, dim].

    Args:
        places: columns of ``rows``, and for each the place in the vectors.
        first_row: of the file, with which ``column`` begins.

    Raises:
        DataError: the column is not numeric, a value is missing, or floating point would round it.
    """
    values = _numbers(file, column, name, first_row)
    for at, within in places:
        rows[:, at] = values if within is None else values[:, within]


def read_parquet(file: InputFile, columns: Sequence[str] | None = None) -> Raw:
    """Read ``columns`` (None: all but an index of pandas') of a parquet file. Missing values are refused."""
    parquet = need("pyarrow.parquet", file)
    with reading(file, "parquet"), parquet.ParquetFile(file.path) as opened:
        known, total = ParquetColumns(file, opened.schema_arrow), opened.metadata.num_rows
        wanted = known.wanted(columns)
        # Columns of a file without rows may have no type.
        dtype = known.dtype(wanted) if total else np.dtype(np.float64)
        refuse_larger_than_memory(file, total * len(wanted) * dtype.itemsize)
        rows = np.empty((total, len(wanted)), dtype)
        # A column of a row group at a time: a copy of all in Arrow would be as large again, and Arrow keeps it.
        for field, places in known.places(wanted).items():
            done = 0
            for group in range(opened.num_row_groups):
                column = opened.read_row_group(group, columns=[field])[field]
                if len(column) != opened.metadata.row_group(group).num_rows or done + len(column) > total:
                    raise refuse(file, MISCOUNTED)
                fill(file, rows[done : done + len(column)], column, field, places, done)
                done += len(column)
            if done < total:
                raise refuse(file, MISCOUNTED)
        return Raw(rows, tuple(wanted), known.notes() if columns is None else (), known.stored(wanted))


def _pandas_index(schema: Any) -> list[str | dict[str, Any]]:
    """Return pandas' index as the footer describes it: columns by name, ranges by their bounds."""
    try:
        described = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
        return [entry for entry in described if isinstance(entry, str | dict)]
    except (ValueError, KeyError, TypeError):
        return []


def _type_name(file: InputFile, kind: Any) -> str:
    """Return the name of an Arrow type, of vectors and dictionaries that of their values; floats are called as numpy
    calls them."""
    types = need("pyarrow", file).types
    if isinstance(kind, need("pyarrow", file).FixedShapeTensorType) or types.is_fixed_size_list(kind):
        return _type_name(file, kind.value_type)
    if types.is_dictionary(kind):
        return _type_name(file, kind.value_type)
    return f"float{kind.bit_width}" if types.is_floating(kind) else str(kind)


def _vector_size(file: InputFile, kind: Any) -> int | None:
    """Return how many numbers each value of an Arrow type has, None where it is no vector."""
    pyarrow = need("pyarrow", file)
    if isinstance(kind, pyarrow.FixedShapeTensorType):
        kind = kind.storage_type
    if not pyarrow.types.is_fixed_size_list(kind) or kind.list_size > _WIDEST_VECTOR:
        return None
    return int(kind.list_size)


@dataclass(frozen=True)
class _Column:
    """A column for what must be said of one of its values; of vectors, the values stand one after the other."""

    file: InputFile
    name: str
    first_row: int
    size: int | None = None

    def refuse(self, at: int, what: str) -> DataError:
        """Return the error for the value at ``at``."""
        row, within = divmod(at, self.size or 1)
        name = self.name if self.size is None else parts_of(self.name, [self.size])[within]
        return refuse(self.file, what, column=name, row=self.first_row + row)


def _numbers(file: InputFile, column: Any, name: str, first_row: int = 0) -> NDArray[Any]:
    """Return an Arrow column as an array [n], of vectors as [n, size]."""
    pyarrow = need("pyarrow", file)
    if isinstance(column.type, pyarrow.FixedShapeTensorType):
        storage = column.type.storage_type
        column = pyarrow.chunked_array([chunk.storage for chunk in column.chunks], type=storage)
    size = _vector_size(file, column.type)
    if size is None:
        return _plain(_Column(file, name, first_row), column)
    _refuse_missing(_Column(file, name, first_row), column)
    flat = pyarrow.chunked_array([chunk.flatten() for chunk in column.chunks], type=column.type.value_type)
    return _plain(_Column(file, name, first_row, size), flat).reshape(len(column), size)


def _plain(of: _Column, column: Any) -> NDArray[Any]:
    """Return an Arrow column of numbers as an array [n] of its own dtype: booleans as 0 and 1, decimals as float64."""
    pyarrow = need("pyarrow", of.file)
    types, kind = pyarrow.types, column.type
    if types.is_dictionary(kind):
        chunks = [chunk.dictionary_decode() for chunk in column.chunks]
        column, kind = pyarrow.chunked_array(chunks, type=kind.value_type), kind.value_type
    if types.is_null(kind):
        raise refuse(of.file, "every value is missing: leave it out of data.columns, or fill it", column=of.name)
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
        what = f"holds {kind}, not numbers: leave it out of data.columns{_instead(kind, types)}"
        raise refuse(of.file, what, column=of.name)
    _refuse_missing(of, column)
    if types.is_boolean(kind):
        column = column.cast(pyarrow.uint8())
    elif types.is_decimal(kind):
        column = _decimals(of, column)
    values = np.asarray(column.to_numpy())
    if (at := first_inexact(values)) is not None:
        raise of.refuse(at, f"is {values[at]}, {INEXACT}")
    return values
    return values


def _instead(kind: Any, types: Any) -> str:
    """Return what else can be done with a column of a type that is not read."""
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return ", or store vectors of one length as pyarrow.list_(pyarrow.float32(), LENGTH)"
    if types.is_struct(kind):
        return ", or store its fields as columns (pyarrow.Table.flatten)"
    if types.is_temporal(kind):
        return ", or store it as a number in a unit of your choice"
    return ", or encode its values as numbers"


def _refuse_missing(of: _Column, column: Any) -> None:
    if column.null_count:
        at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise of.refuse(at, "the value is missing: remove or fill such rows")


def _decimals(of: _Column, column: Any) -> Any:
    """Return an Arrow column of decimals in float64."""
    floats = column.cast(need("pyarrow", of.file).float64())
    for at in np.flatnonzero(np.abs(floats.to_numpy()) >= LARGEST_EXACT):
        if abs(exact := column[int(at)].as_py()) > LARGEST_EXACT:
            raise of.refuse(int(at), f"is {exact}, {INEXACT}")
    return floats


@reads("parquet")
def _parquet(file: InputFile, data: FileData) -> Raw:
    return read_parquet(file, names_asked_for(data))
