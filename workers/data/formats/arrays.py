"""Arrays of numpy: npy and npz."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.columns import Values, names_asked_for, of_array
from symadj.workers.data.formats.raw import InputFile, Raw, reading, reads, refuse, refuse_larger_than_memory

__all__ = ["choose", "listed", "map_npy", "read_npy", "read_npz"]

# The arrays of scipy.sparse.save_npz.
_OF_SPARSE = {"data", "shape", "format"}


def read_npy(file: InputFile, columns: Sequence[str] | None = None) -> Raw:
    """Read the array of an npy file, of a structured one the fields ``columns`` (None: all).

    Pickled objects are never loaded: they may run code.
    """
    with reading(file, "npy"), file.path.open("rb") as stream:
        refuse_larger_than_memory(file, file.path.stat().st_size)
        return of_array(file, np.lib.format.read_array(stream, allow_pickle=False), columns)


def map_npy(file: InputFile) -> Values | None:
    """Return the array of an npy file, of which what is looked at is read; None where it has to be read as a whole."""
    with reading(file, "npy"):
        array = np.lib.format.open_memmap(file.path, mode="r")
        return None if array.dtype.names or not array.ndim else array


def read_npz(file: InputFile, key: str | None, columns: Sequence[str] | None = None) -> Raw:
    """Read the array ``key`` of an npz file, its only one without a key."""
    with reading(file, "npz"):
        if not zipfile.is_zipfile(file.path):
            raise refuse(file, "is no npz file (a zip archive of arrays)")
        with np.load(file.path, allow_pickle=False) as arrays:
            if set(arrays.files) >= _OF_SPARSE:
                raise refuse(file, "holds a sparse matrix of scipy: store it as an array, x.toarray()")
            chosen = choose(file, key, arrays.files)
            # The size that the archive announces is also the most that is unpacked.
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in arrays.zip.infolist()}
            refuse_larger_than_memory(file, sizes[chosen])
            return of_array(file, arrays[chosen], columns)


def choose(file: InputFile, key: str | None, names: Sequence[str]) -> str:
    """Return the array to read of those in a file: ``key``, the only one without a key.

    Raises:
        DataError: there is none, or several.
    """
    if key is None and len(names) == 1:
        return names[0]
    if key is None:
        raise refuse(file, f"holds {len(names)} arrays: name one by data.key: {listed(names)}" if names else "is empty")
    if key not in names:
        raise refuse(file, f"has no array {key!r}, it has: {listed(names)}")
    return key


def listed(names: Sequence[str]) -> str:
    """Return the first of ``names`` for a message."""
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"


@reads("npy")
def _npy(file: InputFile, data: FileData) -> Raw:
    return read_npy(file, names_asked_for(data))


@reads("npz")
def _npz(file: InputFile, data: FileData) -> Raw:
    return read_npz(file, data.key, names_asked_for(data))
