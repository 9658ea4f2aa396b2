"""Arrays: npy, npz, HDF5."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.formats.raw import (
    InputFile,
    Raw,
    need,
    reading,
    reads,
    refuse,
    refuse_larger_than_memory,
    same_type,
)

__all__ = ["read_hdf5", "read_npy", "read_npz"]


def read_npy(file: InputFile) -> Raw:
    """Read the array of an npy file. Pickled objects are never loaded: they may run code."""
    with reading(file, "npy"), file.path.open("rb") as stream:
        refuse_larger_than_memory(file, file.path.stat().st_size)
        return _from_array(file, np.lib.format.read_array(stream, allow_pickle=False))


def read_npz(file: InputFile, key: str | None) -> Raw:
    """Read the array ``key`` of an npz file, its only one without a key."""
    with reading(file, "npz"):
        if not zipfile.is_zipfile(file.path):
            raise refuse(file, "is no npz file (a zip archive of arrays)")
        with np.load(file.path, allow_pickle=False) as arrays:
            chosen = _choose(file, key, arrays.files)
            # The size that the archive announces is also the most that is unpacked.
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in arrays.zip.infolist()}
            refuse_larger_than_memory(file, sizes[chosen])
            return _from_array(file, arrays[chosen])


def read_hdf5(file: InputFile, key: str | None) -> Raw:
    """Read the dataset ``key`` of an HDF5 file, its only one without a key."""
    h5py = need("h5py", file)
    with reading(file, "HDF5"), h5py.File(file.path, "r") as opened:
        names: list[str] = []
        opened.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        # A key may also go through a link, which visititems does not follow.
        chosen = key if key is not None and key in opened else _choose(file, key, names)
        dataset = opened[chosen]
        if not isinstance(dataset, h5py.Dataset):
            raise refuse(file, f"{chosen!r} is a group, not a dataset; its datasets: {_listed(names)}")
        if dataset.file.filename != opened.filename or dataset.external or dataset.is_virtual:
            raise refuse(file, f"{chosen!r} lies in another file, which may be outside of the data roots")
        refuse_larger_than_memory(file, dataset.nbytes)
        return _from_array(file, dataset[()])


def _choose(file: InputFile, key: str | None, names: Sequence[str]) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is None:
        raise refuse(
            file, f"holds {len(names)} arrays: name one by data.key: {_listed(names)}" if names else "is empty"
        )
    if key not in names:
        raise refuse(file, f"has no array {key!r}, it has: {_listed(names)}")
    return key


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"


def _from_array(file: InputFile, array: NDArray[Any]) -> Raw:
    if np.ndim(array) == 0:
        raise refuse(file, "holds a single value, not an array of rows")
    if array.dtype.names:
        return Raw(same_type(file, [array[name] for name in array.dtype.names], array.dtype.names), array.dtype.names)
    if array.dtype.kind not in "iuf":
        raise refuse(file, f"holds {array.dtype}, not real numbers")
    return Raw(array)


@reads("npy")
def _npy(file: InputFile, data: FileData) -> Raw:
    return read_npy(file)


@reads("npz")
def _npz(file: InputFile, data: FileData) -> Raw:
    return read_npz(file, data.key)


@reads("hdf5")
def _hdf5(file: InputFile, data: FileData) -> Raw:
    return read_hdf5(file, data.key)
