"""From the data section of a spec to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.spec.data import (
    BuiltinData,
    Data,
    FileData,
    FileRows,
    MafData,
    MafRows,
    ParquetStreamData,
    ParquetStreamRows,
    ToyData,
)
from symadj.service.contract.spec.scores import ScoredRows, UploadedRows
from symadj.workers.data.builtin import load_builtin
from symadj.workers.data.errors import DataError
from symadj.workers.data.files import load_file
from symadj.workers.data.maf import load_maf
from symadj.workers.data.prepare import TableData, prepare
from symadj.workers.data.prepare_stream import check_stream, prepare_stream
from symadj.workers.data.roots import DataRoots
from symadj.workers.data.summary import summarise
from symadj.workers.data.table import PreparedData, Table
from symadj.workers.data.toys import draw_toy

__all__ = ["check_data", "load_data", "load_table", "name_of"]

OnRead = Callable[[DataSummary], None]


def load_table(data: TableData, roots: DataRoots) -> Table:
    """Load or draw the raw rows that ``data`` names; files are looked for below ``roots``.

    Raises:
        DataError: a file is missing, unreadable, or not of the layout that is asked for.
    """
    match data:
        case BuiltinData():
            return load_builtin(data)
        case ToyData():
            return draw_toy(data)
        case FileData():
            return load_file(data, roots)
        case MafData():
            return load_maf(data, roots)


def load_data(data: Data, roots: DataRoots, on_read: OnRead | None = None) -> PreparedData:
    """Load, check, split and transform what ``data`` names; files are looked for below ``roots``.

    Args:
        on_read: gets the summary of what was read, before it may be refused.

    Raises:
        DataError: it can't be trained on; says which file, column and row.
    """
    with _in_memory(data):
        if isinstance(data, ParquetStreamData):
            return prepare_stream(data, roots, on_read)
        table = load_table(data, roots)
        if on_read is not None:
            on_read(summarise(data, table))
        return prepare(data, table)


def check_data(data: Data, roots: DataRoots, on_read: OnRead) -> int:
    """Load and check what ``data`` names, as ``load_data`` does, reading each file once.

    Returns:
        The number of training rows.

    Raises:
        DataError: it can't be trained on; says which file, column and row.
    """
    if isinstance(data, ParquetStreamData):
        with _in_memory(data):
            return len(check_stream(data, roots, on_read).training)
    return load_data(data, roots, on_read).training_rows


def name_of(data: Data | ScoredRows) -> str | None:
    """Return the file or folder that ``data`` names, None where it names none."""
    if isinstance(data, UploadedRows):
        return data.name
    return data.path if isinstance(data, FileRows | MafRows | ParquetStreamRows) else None


@contextmanager
def _in_memory(data: Data) -> Iterator[None]:
    """Turn memory that ran out, at whatever is done with the rows, into a ``DataError``."""
    try:
        yield
    except MemoryError as error:
        name = name_of(data)
        raise DataError(
            f"{name or 'the data set'} does not fit into the memory of its node with what is made of it: use fewer "
            "rows or columns, or store it as parquet and take data.kind parquet_stream",
            file=name,
        ) from error
