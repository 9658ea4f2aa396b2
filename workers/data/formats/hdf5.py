"""HDF5: arrays, and the tables and matrices that other programs keep in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import FileData
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.arrays import choose, listed
from symadj.workers.data.formats.columns import names_asked_for, of_array
from symadj.workers.data.formats.hdf5_layouts import LAYOUTS, Layout, Members, refuse_part
from symadj.workers.data.formats.hdf5_packing import Missing, unpacked
from symadj.workers.data.formats.raw import (
    InputFile,
    Raw,
    need,
    reading,
    reads,
    refuse,
    refuse_larger_than_memory,
)

__all__ = ["read_hdf5"]

RowAxis = Literal["first", "last"]

_MOST_LINKS = 32

# The filters that the package hdf5plugin brings, by their registered numbers.
_OF_HDF5PLUGIN = {
    307: "bzip2",
    32001: "Blosc",
    32004: "LZ4",
    32008: "Bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32018: "FCIDECOMP",
    32024: "SZ3",
    32026: "Blosc2",
    32028: "SPERR",
}
_OTHER_FILTERS = {4: "SZIP", 305: "LZO", 32000: "LZF"}
# How files begin that people take for HDF5.
_NOT_HDF5 = {
    b"CDF\x01": "netCDF of before version 4: convert it, nccopy -k nc4 OLD NEW",
    b"CDF\x02": "netCDF of before version 4: convert it, nccopy -k nc4 OLD NEW",
    b"CDF\x05": "netCDF of before version 4: convert it, nccopy -k nc4 OLD NEW",
    b"MATL": "a MAT-file of before version 7.3: save it again, save(NAME, '-v7.3')",
}


def read_hdf5(
    file: InputFile, key: str | None, columns: Sequence[str] | None = None, row_axis: RowAxis | None = None
) -> Raw:
    """Read the array, table or sparse matrix ``key`` of an HDF5 file, its only one without a key.

    Args:
        columns: of a table; None is all but an index of pandas'.
        row_axis: the axis of an array that counts the rows, the first where nothing is said.
    """
    h5py = need("h5py", file)
    with reading(file, "HDF5"):
        _refuse_not_hdf5(file)
        with h5py.File(file.path, "r") as opened:
            return _Reader(file, opened).read(key, columns, row_axis)


def _refuse_not_hdf5(file: InputFile) -> None:
    if need("h5py", file).is_hdf5(file.path):
        return
    with file.path.open("rb") as stream:
        begin = stream.read(4)
    if begin in _NOT_HDF5:
        raise refuse(file, f"is not HDF5 but {_NOT_HDF5[begin]}")


class _Reader(Members):
    """Reads the members of an open file."""

    def __init__(self, file: InputFile, opened: Any) -> None:
        self.file, self._opened = file, opened
        self._h5py = need("h5py", file)

    def read(self, key: str | None, columns: Sequence[str] | None, row_axis: RowAxis | None) -> Raw:
        names = self._names()
        # A key may also go through a link, which no list of members follows.
        item = None if key is None else self._find(self._opened, key)
        chosen = key.strip("/") if key is not None and item is not None else choose(self.file, key, names)
        item = self.member(self._opened, chosen) if item is None else item
        if isinstance(item, self._h5py.Dataset) and item.name.rpartition("/")[2] == "table":
            item = item.parent if _layout(item.parent) is not None else item
        layout = None if isinstance(item, self._h5py.Dataset) else _layout(item)
        if layout is not None:
            if row_axis == "last":
                raise refuse(self.file, f"{chosen!r} is {layout.name}, whose rows come first: leave out data.row_axis")
            return layout.read(self, item, columns)
        if not isinstance(item, self._h5py.Dataset):
            raise refuse(self.file, f"{chosen!r} is a group, not a dataset; its datasets: {listed(names)}")
        refuse_part(self.file, item)
        return self._array(item, columns, row_axis)

    def _names(self) -> list[str]:
        """Return the names of all arrays, and of the groups that are a table or a matrix as a whole."""
        names: list[str] = []
        whole = ""

        def look(name: str, item: Any) -> None:
            nonlocal whole
            if whole and name.startswith(f"{whole}/"):
                return
            if isinstance(item, self._h5py.Dataset):
                if not _is_dimension(item):
                    names.append(name)
            elif _is_bookkeeping(name):
                whole = name
            elif isinstance(item, self._h5py.Group) and _layout(item) is not None:
                whole = name
                names.append(name)

        self._opened.visititems(look)
        return names

    def member(self, group: Any, path: str) -> Any:
        """Return what ``group`` has at ``path``.

        Raises:
            DataError: there is nothing, or it lies in another file.
        """
        if (found := self._find(group, path)) is None:
            raise refuse(self.file, f"{group.name!r} has no {path!r}")
        return found

    def _find(self, group: Any, path: str) -> Any | None:
        """Return what ``group`` has at ``path``, None where there is nothing.

        Each link is looked at before it is followed: HDF5 would open another file, which may be outside of the data
        roots, or a pipe, before anything could be said against it.
        """
        at = self._opened if path.startswith("/") else group
        parts, links = _parts(path), 0
        while parts:
            name = parts.pop()
            link = at.get(name, getlink=True) if isinstance(at, self._h5py.Group) else None
            match link:
                case None:
                    return None
                case self._h5py.ExternalLink():
                    raise self._elsewhere(path)
                case self._h5py.SoftLink():
                    if (links := links + 1) > _MOST_LINKS:
                        raise refuse(self.file, f"{path!r} leads through more than {_MOST_LINKS} links")
                    at = self._opened if link.path.startswith("/") else at
                    parts += _parts(link.path)
                case _:
                    at = at[name]
        # Even the shape of a virtual dataset may be that of others, which HDF5 would open.
        if isinstance(at, self._h5py.Dataset) and (at.external or at.is_virtual):
            raise self._elsewhere(path)
        return at

    def _elsewhere(self, path: str) -> DataError:
        return refuse(self.file, f"{path!r} lies in another file, which may be outside of the data roots")

    def values(self, item: Any) -> NDArray[Any]:
        """Return what a dataset holds.

        Raises:
            DataError: it is larger than memory, or can't be read here.
        """
        try:
            kind = item.dtype
        except TypeError as error:
            raise refuse(self.file, f"{item.name!r} has a type that numpy does not have: {error}") from error
        if self._h5py.check_enum_dtype(kind) is not None:
            raise refuse(self.file, f"{item.name!r} holds names by number (an enumeration): store numbers")
        refuse_larger_than_memory(self.file, item.nbytes)
        try:
            return np.asarray(item[()])
        except OSError as error:
            return self._with_plugin(item, error)

    def _with_plugin(self, item: Any, error: OSError) -> NDArray[Any]:
        """Read what could not be read for want of a filter, if the package with it is there."""
        missing = _missing_filters(self._h5py, item)
        if not missing:
            raise error
        if set(missing) <= _OF_HDF5PLUGIN.keys():
            try:
                need("hdf5plugin", self.file)
                return np.asarray(item[()])
            except DataError:
                pass
        raise _no_filter(self.file, item.name, missing) from error

    def _array(self, item: Any, columns: Sequence[str] | None, row_axis: RowAxis | None) -> Raw:
        self._refuse_unsaid_axis(item, row_axis)
        values = self.values(item)
        stored = values.dtype.name
        missing: list[Missing] = []
        notes: list[str] = []
        if values.ndim and values.dtype.kind in "iuf":
            netcdf = "_NCProperties" in self._opened.attrs or any(name.startswith("_Netcdf4") for name in item.attrs)
            values, missing, notes = unpacked(
                self.file, values, dict(item.attrs), netcdf=netcdf, hdf_eos="HDFEOS INFORMATION" in self._opened
            )
        if row_axis == "last":
            if values.dtype.names:
                raise refuse(self.file, f"{item.name!r} is a table, whose rows come first: leave out data.row_axis")
            values, missing = values.T, [Missing(mark.where.T, mark.why) for mark in missing]
            notes.append("the last axis was taken for the rows")
        self._refuse_missing(missing, columns)
        raw = of_array(self.file, values, columns)
        return Raw(raw.values, raw.columns, (*raw.notes, *notes), stored if raw.columns is None else raw.stored)

    def _refuse_missing(self, missing: Sequence[Missing], columns: Sequence[str] | None) -> None:
        for mark in missing:
            where = mark.where.reshape(len(mark.where), -1)
            for column in np.flatnonzero(where.any(0)):
                if columns is None or f"x{column}" in columns:
                    what = f"the value is missing ({mark.why}): remove or fill such rows"
                    raise refuse(self.file, what, column=f"x{column}", row=int(np.argmax(where[:, column])))

    def _refuse_unsaid_axis(self, item: Any, row_axis: RowAxis | None) -> None:
        """Refuse an array of MATLAB's if nothing says what its rows are: HDF5 has its axes the other way round."""
        kind = item.attrs.get("MATLAB_class")
        if kind is None:
            return
        if bytes(kind) == b"char":
            raise refuse(self.file, f"{item.name!r} holds text of MATLAB, not numbers")
        if item.attrs.get("MATLAB_empty"):
            raise refuse(self.file, f"{item.name!r} is empty")
        if row_axis is None:
            here, there = (" x ".join(map(str, shape)) for shape in (item.shape, item.shape[::-1]))
            raise refuse(
                self.file,
                f"{item.name!r} is {there} in MATLAB and {here} in HDF5, which has MATLAB's axes the other way round: "
                f"set data.row_axis to last for {item.shape[-1]} rows, or to first for {item.shape[0]}",
            )


def _parts(path: str) -> list[str]:
    """Return the names in a path, the first one last."""
    return [name for name in path.split("/") if name not in ("", ".")][::-1]


def _layout(group: Any) -> Layout | None:
    return next((layout for layout in LAYOUTS if layout.fits(group)), None)


def _is_dimension(item: Any) -> bool:
    """Return whether a dataset stands for a dimension of netCDF that has no values."""
    name = item.attrs.get("NAME")
    return isinstance(name, bytes) and name.startswith(b"This is a netCDF dimension but not a netCDF variable")


def _is_bookkeeping(name: str) -> bool:
    """Return whether a group is what PyTables keeps of its indices, or MATLAB of what others refer to."""
    last = name.rpartition("/")[2]
    return last.startswith("_i_") or last in ("#refs#", "#subsystem#")


def _missing_filters(h5py: Any, item: Any) -> dict[int, str]:
    """Return the filters of a dataset that are not installed, by their registered numbers."""
    created = item.id.get_create_plist()
    filters = (created.get_filter(place) for place in range(created.get_nfilters()))
    return {
        code: _OF_HDF5PLUGIN.get(code) or _OTHER_FILTERS.get(code) or name.decode(errors="replace") or "without a name"
        for code, _, _, name in filters
        if not h5py.h5z.filter_avail(code)
    }


def _no_filter(file: InputFile, name: str, missing: dict[int, str]) -> DataError:
    filters = ", ".join(f"{title} ({code})" for code, title in missing.items())
    return refuse(
        file,
        f"{name!r} is compressed with a filter that is not installed, {filters}: "
        + ("`pip install hdf5plugin` on the workers brings it, or " if missing.keys() <= _OF_HDF5PLUGIN.keys() else "")
        + "write it again where it can be read, h5repack -f GZIP=4 OLD NEW",
    )


@reads("hdf5")
def _hdf5(file: InputFile, data: FileData) -> Raw:
    return read_hdf5(file, data.key, names_asked_for(data), data.row_axis)
