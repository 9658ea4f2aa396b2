"""Readers, one file a family of formats. Each returns :class:`Raw` and raises ``DataError`` in words of ours."""

from __future__ import annotations

from workers.data.formats.arrays import read_hdf5, read_npy, read_npz
from workers.data.formats.fcs import read_fcs
from workers.data.formats.idx import read_idx
from workers.data.formats.raw import InputFile, Raw
from workers.data.formats.tables import read_csv, read_parquet

__all__ = ["InputFile", "Raw", "read_csv", "read_fcs", "read_hdf5", "read_idx", "read_npy", "read_npz", "read_parquet"]
