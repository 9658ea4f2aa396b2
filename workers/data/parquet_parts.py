"""The files that a parquet data set consists of, and what the names of their folders say of their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.formats.columns import INEXACT, LARGEST_EXACT, wanted_of
from symadj.workers.data.formats.parquet import MISCOUNTED, ParquetColumns, fill
from symadj.workers.data.formats.raw import InputFile, need, reading, refuse, refuse_larger_than_memory

__all__ = ["FOLDER", "ParquetPart"]

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
FOLDER = "folder's name"  # as the type of a column
_WHOLE = re.compile(r"[+-]?\d+")
_FRACTION = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class ParquetPart:
    """One file, as it was when its metadata were read.

    The name of a folder like ``donor=0`` is a column of the files in it, as for Hive, Spark and pandas.

    Attributes:
        group_rows: how many rows each row group has.
    """

    def __init__(self, file: InputFile, folders: Sequence[str]) -> None:
        """Read the metadata of ``file``, which lies in ``folders``, the outermost first.

        Raises:
            DataError: it can't be read.
        """
        self.file = file
        self._stamp = _stamp(file)
        parquet = need("pyarrow.parquet", file)
        with reading(file, "parquet"), parquet.ParquetFile(file.path) as opened:
            self._metadata, self._columns = opened.metadata, ParquetColumns(file, opened.schema_arrow)
        self.group_rows = [self._metadata.row_group(number).num_rows for number in range(self._metadata.num_row_groups)]
        pairs = (folder.split("=", 1) for folder in folders if "=" in folder)
        keys = {unquote(key): unquote(text) for key, text in pairs}
        held = set(self._columns.names)
        self._keys = {key: text for key, text in keys.items() if key not in held}
        # Some writers store the column in the files as well.
        self._doubled = {key: text for key, text in keys.items() if key in held}

    def offered(self) -> list[str]:
        """Return the columns that are read where none are asked for.

        Raises:
            DataError: there is none, or two have one name.
        """
        return [*self._columns.wanted(None), *self._keys]

    def check(self, wanted: Sequence[str]) -> None:
        """Raise ``DataError`` where a column that is ``wanted`` is missing, or there more than once."""
        self._columns.refuse_range(wanted)
        wanted_of(self.file, [*self._columns.names, *self._keys], wanted)

    def dtype(self, wanted: Sequence[str]) -> np.dtype[Any]:
        """Return the narrowest dtype that holds all columns ``wanted``.

        Raises:
            DataError: a column is not numeric.
        """
        numbers = [self._number(name) for name in wanted if name in self._keys]
        keys = [np.min_scalar_type(n) if isinstance(n, int) else np.dtype(np.float64) for n in numbers]
        held = [name for name in wanted if name not in self._keys]
        return np.result_type(*keys, *([self._columns.dtype(held)] if held else []))

    def notes(self) -> tuple[str, ...]:
        """Return what is left out where no columns are asked for."""
        return self._columns.notes()

    def stored(self, wanted: Sequence[str]) -> list[str]:
        """Return the type of each column ``wanted`` as the file has it."""
        held = iter(self._columns.stored([name for name in wanted if name not in self._keys]))
        return [FOLDER if name in self._keys else next(held) for name in wanted]

    def read(self, number: int, first_row: int, tables: Sequence[tuple[Sequence[str], Any]]) -> list[NDArray[Any]]:
        """Return the rows of a row group, [n, dim] for each of ``tables``.

        Args:
            number: of the row group.
            first_row: of the file, with which it begins.
            tables: names of columns, and the dtype that holds them.

        Raises:
            DataError: it can't be read, a value is missing, or the file was changed.
        """
        if _stamp(self.file) != self._stamp:
            raise refuse(self.file, "was changed since it was checked: its rows may be others now")
        size = sum(len(names) * np.dtype(dtype).itemsize for names, dtype in tables) * self.group_rows[number]
        refuse_larger_than_memory(self.file, size, "write it with smaller row groups")
        places = [self._columns.places(names, beside=self._keys) for names, _ in tables]
        fields = list(dict.fromkeys(field for of_table in places for field in of_table))
        parquet = need("pyarrow.parquet", self.file)
        with reading(self.file, "parquet"), parquet.ParquetFile(self.file.path, metadata=self._metadata) as opened:
            arrow = opened.read_row_group(number, columns=fields)
        if fields and len(arrow) != self.group_rows[number]:
            raise refuse(self.file, MISCOUNTED)
        filled = []
        for (names, dtype), of_table in zip(tables, places, strict=True):
            rows = np.empty((self.group_rows[number], len(names)), dtype)
            for field, at in of_table.items():
                fill(self.file, rows, arrow[field], field, at, first_row)
            self._fill_keys(rows, names)
            filled.append(rows)
        return filled

    def _fill_keys(self, rows: NDArray[Any], names: Sequence[str]) -> None:
        if not self._keys and not self._doubled:
            return
        for at, name in enumerate(names):
            if name in self._keys:
                rows[:, at] = self._number(name)
            elif name in self._doubled and not np.allclose(rows[:, at], self._number(name), rtol=1e-6, atol=0):
                what = f"holds other values than the name of its folder, {name}={self._doubled[name]}: rename one"
                raise refuse(self.file, what, column=name)

    def _number(self, name: str) -> int | float:
        """Return what a folder's name says of a column."""
        text = self._keys[name] if name in self._keys else self._doubled[name]
        where = f"is {text!r} by the name of the folder"
        if text in ("", _NO_VALUE):
            raise refuse(self.file, f"{where}, which is a missing value: remove or rename the folder", column=name)
        if _WHOLE.fullmatch(text):
            if abs(int(text)) > LARGEST_EXACT:
                raise refuse(self.file, f"{where}, {INEXACT}", column=name)
            return int(text)
        if _FRACTION.fullmatch(text):
            return float(text)
        raise refuse(self.file, f"{where}, not a number: name the columns to use by data.columns", column=name)


def _stamp(file: InputFile) -> tuple[int, int] | None:
    """Return what a file's change can be told by; None: it is not there."""
    try:
        status = file.path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
