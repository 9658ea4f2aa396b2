"""Files of rows, read and written in pieces: csv, npy and parquet, by what their names end with."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from symadj.service.contract.flow_question import ENDINGS, MediaType

__all__ = ["Source", "TableError", "media_type_of", "open_source", "writing", "writing_csv"]

# Of csv: the one encoding whose lines do not end with a byte of their own.
_WIDE = "utf-16"


class TableError(Exception):
    """A file can't be read or written; the message says why."""


def media_type_of(file: Path) -> MediaType:
    """Return the format of a file.

    Raises:
        TableError: its name ends otherwise.
    """
    try:
        return ENDINGS[file.suffix.lower()]
    except KeyError:
        raise TableError(f"{file} must end with one of {', '.join(ENDINGS)}, which says its format") from None


@dataclass(frozen=True)
class Source:
    """The rows of a file.

    Attributes:
        media_type: of the file, and of what is made of its pieces.
        rows: how many there are.
        pieces: returns the rows in pieces of so many at most, which have a length and can be sliced.
        encode: returns a piece as a file of that format.
        csv: how such a file is written, where it is csv and not written as most programs do.
    """

    media_type: MediaType
    rows: int
    pieces: Callable[[int], Iterator[Any]]
    encode: Callable[[Any], bytes]
    csv: dict[str, Any] | None = None


def open_source(file: Path, csv: dict[str, Any] | None = None) -> Source:
    """Open a file of rows.

    Args:
        file: whose name says its format.
        csv: how it is written, if it is csv: the fields of `data.csv` and `header`, as far as they are given.

    Raises:
        TableError: it can't be read, or is of another format.
    """
    media_type = media_type_of(file)
    try:
        if media_type is MediaType.CSV:
            return _csv(file, csv or {})
        if csv:
            raise ValueError(f"it is not csv, and {', '.join(csv)} is about csv: leave it out")
        return {MediaType.NPY: _npy, MediaType.PARQUET: _parquet}[media_type](file)
    except (OSError, ValueError) as error:
        raise TableError(f"{file} can't be read: {error}") from error


def _csv(file: Path, written: dict[str, Any]) -> Source:
    head: list[bytes] = []  # lines that every piece begins with
    reading = _lines(file, written)
    first = next(reading, b"")
    if first.lower().startswith(b"sep="):  # Excel's hint
        head.append(first)
        first = next(reading, b"")
    if written.get("header", True):
        head.append(first)
    rows = max(0, sum(1 for _ in _lines(file, written)) - len(head))

    def pieces(size: int) -> Iterator[list[bytes]]:
        rest = islice(_lines(file, written), len(head), None)
        while piece := list(islice(rest, size)):
            yield piece

    def encode(piece: list[bytes]) -> bytes:
        return b"".join([*head, *piece])

    sent = {name: value for name, value in written.items() if value != _WIDE}
    return Source(MediaType.CSV, rows, pieces, encode, sent)


def _lines(file: Path, written: dict[str, Any]) -> Iterator[bytes]:
    """Yield the lines that are not empty as they are, since the server knows the dialects; UTF-16 as UTF-8."""
    if written.get("encoding") == _WIDE:
        with file.open(encoding=_WIDE, newline="") as text:
            yield from (line.encode() for line in text if line.strip())
        return
    with file.open("rb") as stream:
        yield from (line for line in stream if line.strip())


def _npy(file: Path) -> Source:
    import numpy as np

    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if array.ndim == 0:
        raise ValueError("it holds a single value, not an array of rows")

    def pieces(size: int) -> Iterator[Any]:
        return (array[first : first + size] for first in range(0, len(array), size))

    def encode(piece: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, piece)
        return stream.getvalue()

    return Source(MediaType.NPY, len(array), pieces, encode)


def _parquet(file: Path) -> Source:
    pyarrow, parquet = _pyarrow()
    opened = parquet.ParquetFile(file)

    def encode(piece: Any) -> bytes:
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_batches([piece]), sink)
        return bytes(sink.getvalue())

    return Source(
        MediaType.PARQUET, opened.metadata.num_rows, lambda size: opened.iter_batches(batch_size=size), encode
    )


@contextmanager
def writing(file: Path, rows: int) -> Iterator[Callable[[bytes], None]]:
    """Give a function that adds a table, as a file of the format of ``file``, to it; there will be ``rows`` in all.

    The file appears when the block has ended, or not at all.

    Raises:
        TableError: it can't be written.
    """
    add_to = {MediaType.CSV: _add_csv, MediaType.NPY: _add_npy, MediaType.PARQUET: _add_parquet}[media_type_of(file)]
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as stream, add_to(stream, rows) as add:
            yield add
        part.replace(file)
    except OSError as error:
        raise TableError(f"{file} can't be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing_csv(file: Path) -> Iterator[BinaryIO]:
    """Give a stream for a table in csv; at the end of the block the table is in ``file``, as csv or parquet.

    Raises:
        TableError: its name ends otherwise, or it can't be written.
    """
    if (ending := file.suffix.lower()) not in {".csv", ".parquet"}:
        raise TableError(f"{file} must end with .csv or .parquet, which says its format")
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
        if ending == ".csv":
            part.replace(file)
        else:
            _to_parquet(part, file)
    except OSError as error:
        raise TableError(f"{file} can't be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _to_parquet(table: Path, file: Path) -> None:
    """Write a table in csv as parquet: whole numbers, texts and times by their names, numbers else."""
    pyarrow, parquet = _pyarrow()
    from pyarrow import csv

    with table.open() as stream:
        names = stream.readline().rstrip("\n").split(",")
    known = {"phase": pyarrow.string(), "time": pyarrow.timestamp("us", tz="UTC")}
    whole = {"step", "rank", "attempt"} | {name for name in names if name.endswith("_bytes")}
    known |= dict.fromkeys(whole, pyarrow.int64())
    # By name, since a column of few values may have none in the part by which pyarrow would guess.
    types = {name: known.get(name, pyarrow.float64()) for name in names}
    made = file.with_name(f"{file.name}.made")
    try:
        read = csv.open_csv(table, convert_options=csv.ConvertOptions(column_types=types, null_values=[""]))
        with parquet.ParquetWriter(made, read.schema) as writer:
            for batch in read:
                writer.write_batch(batch)
        made.replace(file)
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def _add_csv(stream: Any, _rows: int) -> Iterator[Callable[[bytes], None]]:
    def add(table: bytes) -> None:
        header, _, lines = table.partition(b"\n")
        stream.write(lines if stream.tell() else header + b"\n" + lines)

    yield add


@contextmanager
def _add_npy(stream: Any, rows: int) -> Iterator[Callable[[bytes], None]]:
    import numpy as np

    def add(table: bytes) -> None:
        array = np.load(io.BytesIO(table), allow_pickle=False)
        if not stream.tell():
            header = np.lib.format.header_data_from_array_1_0(array) | {"shape": (rows, *array.shape[1:])}
            np.lib.format.write_array_header_1_0(stream, header)
        stream.write(array.tobytes())

    yield add


@contextmanager
def _add_parquet(stream: Any, _rows: int) -> Iterator[Callable[[bytes], None]]:
    pyarrow, parquet = _pyarrow()
    writers: list[Any] = []

    def add(table: bytes) -> None:
        read = parquet.read_table(pyarrow.BufferReader(table))
        if not writers:
            writers.append(parquet.ParquetWriter(stream, read.schema))
        writers[0].write_table(read)

    yield add
    for writer in writers:
        writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TableError(
            f"parquet needs pyarrow, which is not installed: `pip install pyarrow`, or take .csv or .npy ({error})"
        ) from error
    return pyarrow, pyarrow.parquet
