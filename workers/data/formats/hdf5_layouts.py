"""What other programs keep in HDF5 as a group of arrays: pandas' tables, AnnData's, sparse matrices."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.formats.columns import INEXACT, array_of_numbers, first_inexact, of_columns
from symadj.workers.data.formats.raw import InputFile, Raw, need, refuse, refuse_larger_than_memory

__all__ = ["LAYOUTS", "Layout", "Members", "refuse_part"]

Values = NDArray[Any]


class Members(Protocol):
    """An open file."""

    file: InputFile

    def member(self, group: Any, path: str) -> Any:
        """Return what a group has at ``path``, which must lie in this file."""

    def values(self, item: Any) -> Values:
        """Return what a dataset holds."""


@dataclass(frozen=True)
class Layout:
    """A group of arrays that is one thing.

    Attributes:
        name: with its article.
        fits: whether a group is laid out so.
        read: returns the columns (None: all) of the group.
    """

    name: str
    fits: Callable[[Any], bool]
    read: Callable[[Members, Any, Sequence[str] | None], Raw]


def _text(item: Any, attribute: str) -> str:
    given = item.attrs.get(attribute, "")
    return given.decode(errors="replace") if isinstance(given, bytes) else str(given)


# pandas ------------------------------------------------------------------------------------------------------------


class _Literals(pickle.Unpickler):
    """Reads lists, tuples, dictionaries, texts and numbers only: a pickle that names anything to call is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} is not a literal")


def _literal(item: Any, attribute: str) -> Any:
    """Return an attribute in which PyTables has pickled a literal."""
    return _Literals(io.BytesIO(bytes(item.attrs[attribute]))).load()


def _read_pandas_table(members: Members, group: Any, columns: Sequence[str] | None) -> Raw:
    """Read what ``to_hdf(format="table")`` wrote: fields of columns of one type, whose names are attributes."""
    table = members.member(group, "table")
    records = members.values(table)
    places: dict[str, tuple[str, int]] = {}
    for field in records.dtype.names or ():
        if field != "index":
            places |= {str(name): (field, at) for at, name in enumerate(_literal(table, f"{field}_kind"))}
    # In the order of the frame, where the columns are not those of a series.
    [(_, order)] = _literal(group, "non_index_axes")
    names = [str(name) for name in order if str(name) in places]
    names += [name for name in places if name not in set(names)]
    index = {"index": "pandas' stored index"} if "index" in (records.dtype.names or ()) else {}
    if "multi" in _text(group, "table_type"):
        index |= {str(level): "a level of pandas' stored index" for level in _literal(group, "levels")}

    def read(name: str) -> Values:
        field, at = places.get(name, ("index", 0))
        kind = _text(table, "index_kind" if field == "index" else f"{field}_dtype")
        meta = _text(table, f"{field}_meta")
        if meta == "category" or not kind.startswith(("int", "uint", "float", "bool")):
            what = "categories" if meta == "category" else kind
            raise refuse(members.file, f"holds {what}, not numbers: leave it out of data.columns", column=name)
        values: Values = records[field].reshape(len(records), -1)
        return values[:, at]

    return of_columns(members.file, [*dict.fromkeys([*index, *names])], columns, read, index)


def _refuse_pandas_fixed(members: Members, group: Any, columns: Sequence[str] | None) -> NoReturn:
    raise refuse(
        members.file,
        f"{group.name!r} is a frame in pandas' fixed layout, whose columns lie in several arrays: write it by "
        "to_hdf(format='table') or to_parquet(), or name an array in it by data.key, such as block0_values",
    )


# AnnData -----------------------------------------------------------------------------------------------------------


def _read_anndata_frame(members: Members, group: Any, columns: Sequence[str] | None) -> Raw:
    """Read ``obs`` or ``var`` of AnnData: a dataset or a group for each column."""
    names = [name if isinstance(name, str) else name.decode() for name in group.attrs["column-order"]]
    index = _text(group, "_index")

    def read(name: str) -> Values:
        column = members.member(group, name)
        kind = _text(column, "encoding-type")
        if kind.startswith("nullable-"):
            return _nullable(members, column, name)
        if kind == "categorical":
            raise refuse(members.file, "holds categories, not numbers: leave it out of data.columns", column=name)
        return members.values(column)

    return of_columns(members.file, [*dict.fromkeys([index, *names])], columns, read, {index: "the index of the table"})


def _nullable(members: Members, column: Any, name: str) -> Values:
    """Return a column of AnnData that says apart which values are missing, with NaN for them."""
    values, missing = (members.values(members.member(column, part)) for part in ("values", "mask"))
    missing = missing.astype(bool)
    if not missing.any():
        return values
    present = np.where(missing, values.dtype.type(0), values)
    if (at := first_inexact(present)) is not None:
        raise refuse(members.file, f"is {present[at]}, {INEXACT}", column=name, row=at)
    return np.where(missing, np.nan, present)


# Sparse matrices ---------------------------------------------------------------------------------------------------

_SPARSE = {"csr": "csr_matrix", "csr_matrix": "csr_matrix", "csc": "csc_matrix", "csc_matrix": "csc_matrix"}


def _sparse_kind(group: Any) -> str | None:
    """Return the class of scipy.sparse that AnnData's attributes, of before and after version 0.7, name."""
    return _SPARSE.get(_text(group, "encoding-type") or _text(group, "h5sparse_format"))


def _read_sparse(members: Members, group: Any, columns: Sequence[str] | None) -> Raw:
    """Read a sparse matrix of AnnData, filled with zeros."""
    sparse = need("scipy.sparse", members.file)
    shape = tuple(int(size) for size in group.attrs.get("shape", group.attrs.get("h5sparse_shape")))
    data = array_of_numbers(members.file, members.values(members.member(group, "data")))
    refuse_larger_than_memory(members.file, shape[0] * shape[1] * data.itemsize)
    indices, starts = (members.values(members.member(group, name)) for name in ("indices", "indptr"))
    matrix = getattr(sparse, _sparse_kind(group) or "")((data, indices, starts), shape=shape)
    matrix.check_format(full_check=True)  # or else places outside of the matrix would be written to
    return Raw(matrix.toarray(), None, (f"the zeros of a sparse matrix ({matrix.nnz} values) were filled in",))


def _refuse_sparse(members: Members, group: Any, columns: Sequence[str] | None) -> NoReturn:
    raise refuse(
        members.file,
        f"{group.name!r} looks like a sparse matrix of a layout that is not read (10x Genomics, MATLAB): store it as "
        "an array, rows first, or write it by AnnData",
    )


def _looks_sparse(group: Any) -> bool:
    members = set(group)
    return {"data", "indices", "indptr"} <= members or {"data", "ir", "jc"} <= members


LAYOUTS = (
    Layout("a table of pandas", lambda group: _text(group, "pandas_type").endswith("_table"), _read_pandas_table),
    Layout("a frame of pandas", lambda group: _text(group, "pandas_type") in ("frame", "series"), _refuse_pandas_fixed),
    Layout("a table of AnnData", lambda group: _text(group, "encoding-type") == "dataframe", _read_anndata_frame),
    Layout("a sparse matrix", lambda group: _sparse_kind(group) is not None, _read_sparse),
    Layout("a sparse matrix", _looks_sparse, _refuse_sparse),
)


def refuse_part(file: InputFile, item: Any) -> None:
    """Raise ``DataError`` for an array that means nothing without the others of its group."""
    group = item.parent
    kind = _text(group, "encoding-type")
    what = None
    if _sparse_kind(group) is not None or _looks_sparse(group):
        what = "a part of a sparse matrix"
    elif kind == "categorical" or kind.startswith("nullable-"):
        what = f"a part of a {kind} column"
        group = group.parent
    elif _text(item, "value_type").startswith(("datetime", "timedelta")):
        raise refuse(file, f"{item.name!r} holds {_text(item, 'value_type')}, not numbers")
    if what is not None:
        raise refuse(file, f"{item.name!r} is {what}: name {group.name!r} by data.key")
