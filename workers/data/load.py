"""From the data section of a spec to rows."""

from __future__ import annotations

from symadj.service.contract.spec.data import BuiltinData, Data, FileData, MafData, ParquetStreamData, ToyData
from symadj.workers.data.builtin import load_builtin
from symadj.workers.data.files import load_file
from symadj.workers.data.maf import load_maf
from symadj.workers.data.prepare import TableData, prepare
from symadj.workers.data.prepare_stream import prepare_stream
from symadj.workers.data.table import PreparedData, Table
from symadj.workers.data.toys import draw_toy

__all__ = ["load_data", "load_table"]


def load_table(data: TableData) -> Table:
    """Load or draw the raw rows that ``data`` names.

    Raises:
        DataError: a file is missing, unreadable, or not of the layout that is asked for.
    """
    match data:
        case BuiltinData():
            return load_builtin(data)
        case ToyData():
            return draw_toy(data)
        case FileData():
            return load_file(data)
        case MafData():
            return load_maf(data)


def load_data(data: Data) -> PreparedData:
    """Load, check, split and transform what ``data`` names.

    Raises:
        DataError: it can't be trained on; says which file, column and row.
    """
    if isinstance(data, ParquetStreamData):
        return prepare_stream(data)
    return prepare(data, load_table(data))
