"""What all readers take and return."""

from __future__ import annotations

import gzip
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray

from symadj.service.contract.spec.data import FileData, FormatName
from symadj.workers.data.errors import DataError

__all__ = [
    "READERS",
    "InputFile",
    "Raw",
    "is_gzipped",
    "need",
    "open_unpacked",
    "reading",
    "reads",
    "refuse",
    "refuse_larger_than_memory",
]

_STREAM = "store it as parquet and take data.kind parquet_stream"


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
            f"{file.name} can't be read here: {package.split('.')[0]} is not installed, `pip install "
            f"'symadj[train]'` brings it ({error})",
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


def refuse_larger_than_memory(file: InputFile, size: int) -> None:
    """Raise ``DataError`` where a file announces ``size`` bytes of values, and the machine has less memory.

    A small file may announce any size. Looked at before the values are: the system kills a process that goes too far.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        # Four digits, where pydantic's ByteSize gives one: the two may differ by little.
        raise refuse(
            file,
            f"holds {size / 2**30:.4g} GiB of values, the machine has {memory / 2**30:.4g} GiB of memory: {_STREAM}",
        )


def is_gzipped(file: InputFile) -> bool:
    """Return whether the file begins as a gzip file does, whatever its name ends with."""
    with file.path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def open_unpacked(file: InputFile) -> BinaryIO:
    """Open the file, and unpack it where it is gzipped."""
    return cast(BinaryIO, gzip.open(file.path)) if is_gzipped(file) else file.path.open("rb")


def refuse(file: InputFile, what: str, *, column: str | None = None, row: int | None = None) -> DataError:
    """Return the error for a readable file with something in it that can't be used."""
    place = "" if column is None else f", column {column!r}"
    place += "" if row is None else f", row {row} (from 0)"
    return DataError(f"{file.name}{place}: {what}", file=file.name, column=column, row=row)
