"""Parquet files that need not fit into memory: batches that are a pure function of (seed, step).

Ray Data streams parquet too, but not in an order that a resumed run could find again: without ``preserve_order`` rows
come as tasks happen to finish, a shuffle buffer is filled from whatever has come, the shares depend on the number of
workers, and an iterator always begins at its first block. Here the order is computed from the files' own tables of row
groups. A window of row groups is read as a whole and its rows are permuted, so the rows of any step are found by
reading one window, two at a seam, and a resumed run has nothing to skip through.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import ParquetStreamData
from symadj.workers.data.errors import DataError
from symadj.workers.data.formats.raw import InputFile
from symadj.workers.data.order import share_of
from symadj.workers.data.parquet_parts import FOLDER, ParquetPart
from symadj.workers.data.roots import DataRoots
from symadj.workers.data.table import Batch, Pipeline, Source, Table
from symadj_core.transforms import FittedTransform

__all__ = ["ParquetRows", "RowGroup", "StreamBatches", "TrainingRows"]

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowGroup:
    """A row group: its file, its number there, its first row there and among all rows, and how many it has."""

    part: ParquetPart
    number: int
    first_in_file: int
    first: int
    rows: int


class ParquetRows:
    """The rows of one or more parquet files, read a row group at a time.

    Attributes:
        columns, context_columns: names of what is read.
        dtype, context_dtype: the narrowest that hold all columns of all files.
        groups: all row groups that have rows, files in the order of their names.
        total: rows in all.
        notes: a short sentence for each thing that was left out or taken from elsewhere.
        stored: the types in the files of the columns and, behind them, of the context's.
    """

    def __init__(self, data: ParquetStreamData, roots: DataRoots) -> None:
        """Read the files' metadata.

        Raises:
            DataError: there is no file, one can't be read, or lacks a column.
        """
        parts = [ParquetPart(file, folders) for file, folders in _files(data.path, roots)]
        # Some programs write files without rows, whose columns have no types or are not there.
        filled = [part for part in parts if any(part.group_rows)] or parts[:1]
        self.context_columns = data.context_columns
        self.columns: tuple[str, ...] = data.columns or tuple(
            name for name in filled[0].offered() if name not in self.context_columns
        )
        self.groups: list[RowGroup] = []
        self.total = 0
        for part in filled:
            part.check([*self.columns, *self.context_columns])
            begin = self.total
            for number, rows in enumerate(part.group_rows):
                if rows:
                    self.groups.append(RowGroup(part, number, self.total - begin, self.total, rows))
                    self.total += rows
        self.dtype = _dtype(filled, self.columns)
        self.context_dtype = _dtype(filled, self.context_columns)
        named = [*self.columns, *self.context_columns]
        self.stored = _stored(filled, named)
        folders = [name for name, kind in zip(named, self.stored, strict=True) if kind == FOLDER]
        self.notes = (
            *(f"column {name!r} was taken from the names of the folders" for name in folders),
            *(_notes(filled) if data.columns is None else ()),
        )

    def read(self, group: RowGroup) -> Table:
        """Read a row group; its rows keep their places in the file for what may be said of them.

        Raises:
            DataError: it can't be read, a column is not numeric, a value is missing, or the file was changed.
        """
        tables = [(self.columns, self.dtype), (self.context_columns, self.context_dtype)]
        rows, context = group.part.read(group.number, group.first_in_file, tables)
        return Table(
            self.columns,
            rows,
            self.context_columns,
            context if self.context_columns else None,
            sources=(Source(group.part.file.name, -group.first_in_file),),
        )


def _dtype(parts: Sequence[ParquetPart], columns: Sequence[str]) -> np.dtype[Any]:
    """Return the narrowest dtype that holds ``columns`` of all ``parts``."""
    if not columns or not any(any(part.group_rows) for part in parts):
        return np.dtype(np.float64)
    return np.result_type(*{part.dtype(columns) for part in parts})


def _stored(parts: Sequence[ParquetPart], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the type of each column as the files have it: all of them, where the files differ."""
    kinds: list[dict[str, None]] = [{} for _ in columns]
    for part in parts:
        for kind, seen in zip(part.stored(columns), kinds, strict=True):
            seen[kind] = None
    return tuple(", ".join(seen) for seen in kinds)


def _notes(parts: Sequence[ParquetPart]) -> tuple[str, ...]:
    """Return what is left out of all columns: pandas' index, and columns that the first file does not have."""
    columns = [part.offered() for part in parts]
    first = set(columns[0])
    further = dict.fromkeys(name for names in columns[1:] for name in names if name not in first)
    return (
        *dict.fromkeys(note for part in parts for note in part.notes()),
        *(f"column {name!r}, which the first file does not have, was left out" for name in further),
    )


def _files(path: str, roots: DataRoots) -> list[tuple[InputFile, tuple[str, ...]]]:
    """Return the files, and for each the folders below ``path`` that it lies in."""
    names = roots.names_below(path, ".parquet")
    if names is None:
        return [(roots.find_file(path), ())]
    inside = [name for name in names if not any(map(_is_left_alone, name.parts))]
    if not inside:
        raise DataError(f"{path} is a folder without any .parquet file", file=path)
    # Each by itself: a link in the folder may lead out of the data roots, or to a pipe.
    return [(roots.find_file(f"{path}/{name}"), name.parts[:-1]) for name in inside]


def _is_left_alone(part: str) -> bool:
    """Return whether other programs keep copies and half-written files under such a name, if it is no column's."""
    return part.startswith(".") or (part.startswith("_") and "=" not in part)


class TrainingRows:
    """The rows of :class:`ParquetRows` that are not held out."""

    def __init__(self, source: ParquetRows, held_out: Index) -> None:
        """``held_out``: sorted numbers of the rows that are left out."""
        self.source = source
        self._held_out = held_out
        ends = [group.first + group.rows for group in source.groups]
        upto = np.searchsorted(held_out, ends)
        self.sizes = [
            group.rows - int(left_out) for group, left_out in zip(source.groups, np.diff(upto, prepend=0), strict=True)
        ]

    def __len__(self) -> int:
        return self.source.total - len(self._held_out)

    def index(self, group: RowGroup) -> Index:
        """Return the numbers among all rows of the training rows of ``group``, ascending."""
        kept = np.ones(group.rows, bool)
        begin, end = np.searchsorted(self._held_out, [group.first, group.first + group.rows])
        kept[self._held_out[begin:end] - group.first] = False
        return group.first + np.flatnonzero(kept)

    def read(self, group: RowGroup) -> tuple[Table, Index]:
        """Return the training rows of ``group`` and their numbers among all rows."""
        table, index = self.source.read(group), self.index(group)
        place = index - group.first
        context = None if table.context is None else table.context[place]
        return (
            Table(table.columns, table.rows[place], table.context_columns, context, sources=table.sources),
            index,
        )


@dataclass(frozen=True, eq=False)
class _Window:
    """The rows of some row groups, shuffled, and the place of the first of them in its epoch."""

    key: tuple[int, int]
    begin: int
    rows: NDArray[Any]
    context: NDArray[Any] | None
    index: Index


class StreamBatches:
    """Batches of :class:`TrainingRows`.

    In every epoch the row groups stand in an order that depends on (seed, epoch) alone. They are cut into windows of
    at least ``buffer_rows`` rows (the last may have fewer), and the rows of a window are permuted by (seed, epoch,
    window). Batches are cut from these rows one after the other; those left over at the end of an epoch are dropped.
    One window is held in memory. Every rank reads all windows: the shares then do not depend on the number of ranks.
    """

    def __init__(
        self,
        training: TrainingRows,
        pipeline: Pipeline,
        context_transform: FittedTransform | None,
        *,
        batch_size: int,
        buffer_rows: int,
        seed: int,
    ) -> None:
        self._training, self._pipeline, self._context_transform = training, pipeline, context_transform
        self._batch_size, self._buffer_rows, self._seed = batch_size, buffer_rows, seed
        self._epoch = -1
        self._windows: list[list[int]] = []
        self._begins: list[int] = []
        self._window: _Window | None = None

    @property
    def batches_per_epoch(self) -> int:
        return len(self._training) // self._batch_size

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        epoch, batch = divmod(step, self.batches_per_epoch)
        first, end = share_of(self._batch_size, rank, ranks)
        begin = batch * self._batch_size
        rows, context, index = self._rows_from(epoch, begin + first, begin + end)
        transformed, _ = self._pipeline(rows, index, epoch)
        if context is None or self._context_transform is None:
            return Batch(transformed, index, None)
        return Batch(transformed, index, self._context_transform(context.astype(np.float64))[0])

    def head(self, rows: int) -> tuple[NDArray[Any], NDArray[Any] | None, Index]:
        """Return raw rows, context and numbers of the first ``rows`` of epoch 0 that are in its first window."""
        self._order(0)
        end = self._begins[1] if len(self._begins) > 1 else len(self._training)
        return self._rows_from(0, 0, min(rows, end))

    def _rows_from(self, epoch: int, begin: int, end: int) -> tuple[NDArray[Any], NDArray[Any] | None, Index]:
        """Return raw rows, context and numbers at ``begin`` to ``end`` of an epoch."""
        self._order(epoch)
        rows, contexts, index = [], [], []
        while begin < end:
            number = bisect_right(self._begins, begin) - 1
            window = self._load(epoch, number)
            here = slice(begin - window.begin, end - window.begin)
            rows.append(window.rows[here])
            index.append(window.index[here])
            if window.context is not None:
                contexts.append(window.context[here])
            begin += len(index[-1])
        return np.concatenate(rows), np.concatenate(contexts) if contexts else None, np.concatenate(index)

    def _order(self, epoch: int) -> None:
        """Put the row groups into the windows of ``epoch``."""
        if epoch == self._epoch:
            return
        sizes = self._training.sizes
        self._windows, self._begins, place, room = [], [], 0, 0
        for group in np.random.default_rng((self._seed, epoch)).permutation(len(sizes)).tolist():
            if not sizes[group]:
                continue
            if room <= 0:
                self._windows.append([])
                self._begins.append(place)
                room = self._buffer_rows
            self._windows[-1].append(group)
            room -= sizes[group]
            place += sizes[group]
        self._epoch = epoch

    def _load(self, epoch: int, number: int) -> _Window:
        if self._window is not None and self._window.key == (epoch, number):
            return self._window
        self._window = None  # before the next is read: one at a time in memory
        groups = [self._training.source.groups[group] for group in self._windows[number]]
        size = sum(self._training.sizes[group] for group in self._windows[number])
        # Each row is put into its place at once: at no time are there two copies of the window.
        goes_to = np.random.default_rng((self._seed, epoch, number)).permutation(size)
        source = self._training.source
        rows = np.empty((size, len(source.columns)), source.dtype)
        context = np.empty((size, len(source.context_columns))) if source.context_columns else None
        index = np.empty(size, np.int64)
        done = 0
        for group in groups:
            table, numbers_here = self._training.read(group)
            to = goes_to[done : done + len(numbers_here)]
            rows[to] = table.rows
            index[to] = numbers_here
            if context is not None:
                context[to] = table.context
            done += len(numbers_here)
        self._window = _Window((epoch, number), self._begins[number], rows, context, index)
        return self._window
