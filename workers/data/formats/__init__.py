"""Readers, one file a family of formats. Each returns :class:`Raw` and raises ``DataError`` in words of ours."""

from __future__ import annotations

from symadj.workers.data.formats.arrays import read_hdf5, read_npy, read_npz
from symadj.workers.data.formats.fcs import read_fcs
from symadj.workers.data.formats.idx import read_idx
from symadj.workers.data.formats.raw import InputFile, Raw
from symadj.workers.data.formats.tables import read_csv, read_parquet

__all__ = ["InputFile", "Raw", "read_csv", "read_fcs", "read_hdf5", "read_idx", "read_npy", "read_npz", "read_parquet"]
