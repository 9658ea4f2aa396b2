"""What all readers take and return."""

from __future__ import annotations

import gzip
import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray

from symadj.extras import how_to_install
from symadj.service.contract.sizes import readable
from symadj.service.contract.spec.data import FileData, FormatName
from symadj.workers.control_group import available_memory
from symadj.workers.data.errors import DataError

__all__ = [
    "READERS",
    "InputFile",
    "Raw",
    "Room",
    "is_gzipped",
    "need",
    "open_unpacked",
    "reading",
    "reads",
    "refuse",
    "refuse_larger_than_memory",
    "refuse_too_many_columns",
]

_STREAM = "store it as parquet and take data.kind parquet_stream"
# Each has a name, statistics and transforms of its own.
_MOST_COLUMNS = 1_000_000
# A gzipped file may unpack to this, or to so many times its size where that is more. Numbers written as text rarely
# come to a tenth of that; a file that is made to fill a disk comes to a thousand times.
_UNPACKED_BYTES, _UNPACKED_TIMES = 2**30, 100


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        path: where it lies.
        name: what the user calls it.
        budget: most bytes that its values may take, as ``resources.memory_budget`` says; None: what is free.
    """

    path: Path
    name: str
    budget: int | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """What a file holds.

    Attributes:
        values: [rows, ...] of a real dtype.
        columns: the names of a table's columns; None where the format has none.
        notes: a short sentence for each thing that was applied or left out while reading.
        stored: the type in the file, of all values or of each column; None: that of ``values``.
    """

    values: NDArray[Any]
    columns: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    stored: str | tuple[str, ...] | None = None


Reader = Callable[[InputFile, FileData], Raw]
READERS: dict[str, Reader] = {}


def reads(format: FormatName) -> Callable[[Reader], Reader]:
    """Return a decorator of the function that reads files of ``format``.

    Raises:
        ValueError: another function reads them already.
    """

    def register(reader: Reader) -> Reader:
        if format in READERS:
            raise ValueError(f"files of format {format} are read by {READERS[format].__qualname__} already")
        READERS[format] = reader
        return reader

    return register


def need(package: str, file: InputFile) -> Any:
    """Return the module of an optional library.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f"{file.name} can't be read here: {package.split('.')[0]} is not installed, {how_to_install('train')} "
            f"brings it ({error})",
            file=file.name,
        ) from error


@contextmanager
def reading(file: InputFile, format: str) -> Iterator[None]:
    """Turn what a library raises while it reads ``file`` into a ``DataError``.

    All exceptions are taken: parsers let through whatever their arithmetic on a damaged header happens to raise.
    """
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise refuse(file, f"does not fit into memory: {_STREAM}") from error
    except Exception as error:
        raise DataError(f"{file.name} can't be read as {format}: {error}", file=file.name) from error


class Room:
    """The memory that the values of a file may take: what is free, and no more than the job's budget.

    Looked at before the values are: a small file may announce any size, and the system kills a process that goes too
    far.
    """

    def __init__(self, file: InputFile) -> None:
        self._file = file
        free = available_memory()
        self._bytes, self._limit = free, f"{readable(free)} of memory are free on this node"
        if file.budget is not None and file.budget < free:
            self._bytes, self._limit = (
                file.budget,
                f"resources.memory_budget is {readable(file.budget)}: raise it, or",
            )

    def refuse_beyond(self, size: int, remedy: str = _STREAM) -> None:
        """Raise ``DataError`` where ``size`` bytes do not fit.

        Args:
            remedy: what to do.
        """
        if size > self._bytes:
            between = " " if self._limit.endswith("or") else ": "
            raise refuse(self._file, f"takes {readable(size)} of memory or more, {self._limit}{between}{remedy}")


def refuse_larger_than_memory(file: InputFile, size: int, remedy: str = _STREAM) -> None:
    """Raise ``DataError`` where a file announces ``size`` bytes of values, and there is less memory for them."""
    Room(file).refuse_beyond(size, remedy)


def refuse_too_many_columns(file: InputFile, count: int) -> None:
    """Raise ``DataError`` where a file has more columns than can be handled."""
    if count > _MOST_COLUMNS:
        raise refuse(
            file,
            f"has {count:,} columns, at most {_MOST_COLUMNS:,} can be read: choose some by data.columns where the "
            "columns have names, or store the array with its rows first",
        )


def is_gzipped(file: InputFile) -> bool:
    """Return whether the file begins as a gzip file does, whatever its name ends with."""
    with file.path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def open_unpacked(file: InputFile) -> BinaryIO:
    """Open the file, and unpack it where it is gzipped.

    Reading raises ``DataError`` where it unpacks to far more than such files do.
    """
    if not is_gzipped(file):
        return file.path.open("rb")
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file), 1 << 16))


class _Unpacked(io.RawIOBase):
    """The content of a gzipped file, of bounded size."""

    def __init__(self, file: InputFile) -> None:
        self._file, self._done = file, 0
        self._packed = file.path.stat().st_size
        self._stream = gzip.GzipFile(file.path)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        count = self._stream.readinto(into)
        self._done += count
        most = max(_UNPACKED_BYTES, _UNPACKED_TIMES * self._packed)
        if self._done > most:
            raise refuse(
                self._file,
                f"unpacks to more than {readable(most)}, and is {readable(self._packed)}: a gzipped file may unpack to "
                f"{readable(_UNPACKED_BYTES)}, or to {_UNPACKED_TIMES} times its size. If it is what you mean to train "
                "on, unpack it (gunzip)",
            )
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def refuse(file: InputFile, what: str, *, column: str | None = None, row: int | None = None) -> DataError:
    """Return the error for a readable file with something in it that can't be used."""
    place = "" if column is None else f", column {column!r}"
    place += "" if row is None else f", row {row} (from 0)"
    return DataError(f"{file.name}{place}: {what}", file=file.name, column=column, row=row)
