"""Data sets: loading, checking, splitting, transforming, and the order of batches. Needs numpy, not torch."""

from __future__ import annotations

from symadj.workers.data.batches import PartBatches
from symadj.workers.data.errors import DataError
from symadj.workers.data.load import check_data, load_data, load_table, name_of
from symadj.workers.data.order import BatchOrder
from symadj.workers.data.prepare import prepare
from symadj.workers.data.roots import DataRoots, data_roots
from symadj.workers.data.table import Batch, Batches, Part, PreparedData, Table

__all__ = [
    "Batch",
    "BatchOrder",
    "Batches",
    "DataError",
    "DataRoots",
    "Part",
    "PartBatches",
    "PreparedData",
    "Table",
    "check_data",
    "data_roots",
    "load_data",
    "load_table",
    "name_of",
    "prepare",
]
