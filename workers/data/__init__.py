"""Data sets: loading, checking, splitting, transforming, and the order of batches. Needs numpy, not torch."""

from __future__ import annotations

from workers.data.batches import PartBatches
from workers.data.errors import DataError
from workers.data.load import load_data, load_table
from workers.data.order import BatchOrder
from workers.data.prepare import prepare
from workers.data.table import Batch, Batches, Part, PreparedData, Table
from workers.data.transforms import FittedTransform, invert, restore_transforms

__all__ = [
    "Batch",
    "BatchOrder",
    "Batches",
    "DataError",
    "FittedTransform",
    "Part",
    "PartBatches",
    "PreparedData",
    "Table",
    "invert",
    "load_data",
    "load_table",
    "prepare",
    "restore_transforms",
]
