"""Rows that a trained flow is to score: all of them in their order, and the columns that it takes."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.data_summary import MAX_COLUMNS, DataSummary, SourceSummary
from symadj.service.contract.spec.data import (
    BuiltinRows,
    FileData,
    FileRows,
    MafRows,
    ParquetStreamData,
    ParquetStreamRows,
    ToyRows,
)
from symadj.service.contract.spec.scores import ScoredRows, UploadedRows
from symadj.workers.data.builtin import load_builtin
from symadj.workers.data.checks import refuse_not_finite, refuse_untransformable
from symadj.workers.data.errors import DataError
from symadj.workers.data.files import load_file, table_of
from symadj.workers.data.formats.arrays import map_npy
from symadj.workers.data.formats.columns import of_array
from symadj.workers.data.formats.delimited import names_without_header, read_csv
from symadj.workers.data.maf import load_maf
from symadj.workers.data.roots import DataRoots
from symadj.workers.data.stream import ParquetRows
from symadj.workers.data.summary import ColumnStatistics, remarks_on
from symadj.workers.data.table import Source, Table, pieces
from symadj.workers.data.toys import draw_toy
from symadj_core.errors import LoadError
from symadj_core.transforms import FittedTransform, restore_transforms

__all__ = ["FlowInput", "RowsInOrder", "check_rows", "open_rows"]

Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FlowInput:
    """What a trained flow takes.

    Attributes:
        columns: names of its columns.
        context_columns: of those that it is conditioned on.
        transforms: between the rows and the flow's space; none where the rows are in that space.
        levels: number of values of a dequantised column, or None.
    """

    columns: tuple[str, ...]
    context_columns: tuple[str, ...]
    transforms: tuple[FittedTransform, ...]
    levels: int | None

    @classmethod
    def of_config(cls, content: bytes, *, transformed: bool) -> Self:
        """Return what the flow of a ``config.json`` takes; ``transformed``: rows as the flow itself sees them.

        Raises:
            LoadError: it is of an earlier version that wrote less, or of none.
        """
        try:
            config = json.loads(content)
            return cls(
                tuple(config["columns"]),
                tuple(config["context_columns"]),
                () if transformed else restore_transforms(config["transforms"]),
                None if transformed else config["levels"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LoadError(f"config.json can't be used ({error!r}): train the flow again") from error


class RowsInOrder:
    """Rows that are read some at a time; of those that lie in groups, one group is held in memory.

    Attributes:
        name: what the user calls them.
        total: how many there are.

    Args:
        name: as above.
        format: of the file; None where there is none.
        sizes: rows of each group.
        load: returns a group by its number.
        notes: a short sentence for each thing that was left out while reading.
        stored: the types in the file of the columns and, behind them, of the context's.
    """

    def __init__(
        self,
        name: str,
        format: str | None,
        sizes: Sequence[int],
        load: Callable[[int], Table],
        notes: Sequence[str],
        stored: Sequence[str],
    ) -> None:
        self.name, self.total = name, sum(sizes)
        self._format, self._load, self._notes, self._stored = format, load, notes, stored
        self._firsts = [0, *accumulate(sizes)][:-1]
        self._held: tuple[int, Table] | None = None

    def tables(self) -> Iterator[Table]:
        """Yield all rows, group by group."""
        return map(self._group, range(len(self._firsts)))

    def read(self, begin: int, end: int) -> tuple[Rows, Rows | None]:
        """Return the rows [n, D] from ``begin`` to before ``end``, and their contexts [n, C].

        Raises:
            DataError: they can't be read any more, or were changed.
        """
        rows: list[Rows] = []
        contexts: list[Rows] = []
        number = bisect_right(self._firsts, begin) - 1
        while begin < end:
            table, first = self._group(number), self._firsts[number]
            here = slice(begin - first, end - first)
            rows.append(table.rows[here].astype(np.float64))
            if table.context is not None:
                contexts.append(table.context[here].astype(np.float64))
            begin, number = first + len(table.rows), number + 1
        return np.concatenate(rows), np.concatenate(contexts) if contexts else None

    def summary(self, modelled: ColumnStatistics, context: ColumnStatistics, flow: FlowInput) -> DataSummary:
        """Return what was seen of the rows."""
        dim = len(flow.columns)
        columns = modelled.columns(flow.columns, self._stored[:dim])[:MAX_COLUMNS]
        columns += context.columns(flow.context_columns, self._stored[dim:], context=True)
        notes = list(self._notes)
        if modelled.rows < self.total:
            notes.append(f"only the first {modelled.rows:,} of {self.total:,} rows were read")
        source = SourceSummary(
            name=self.name,
            format=self._format,
            rows=modelled.rows,
            dim=dim + len(flow.context_columns),
            columns=columns,
            notes=notes,
            remarks=remarks_on(columns),
        )
        return DataSummary(
            sources=[source], transforms=[{"kind": transform.parameters()["kind"]} for transform in flow.transforms]
        )

    def _group(self, number: int) -> Table:
        if self._held is None or self._held[0] != number:
            self._held = None  # before the next is read: one at a time in memory
            self._held = number, self._load(number)
        return self._held[1]


def open_rows(data: ScoredRows, roots: DataRoots, flow: FlowInput) -> RowsInOrder:
    """Return the rows that ``data`` names, with the columns that a flow takes; files are looked for below ``roots``.

    Columns are taken by name. Those of a file that has no names are taken in the order of the flow's columns and,
    behind them, its context's, if there are as many, unless their own names (``x0``, ``x1`` ...) are those of the flow.

    Raises:
        DataError: a file is missing or unreadable, lacks a column of the flow, or has no rows.
    """
    wanted: dict[str, Any] = {"columns": flow.columns, "context_columns": flow.context_columns}
    match data:
        case BuiltinRows():
            return _of_table(data.name, None, _chosen(data.name, load_builtin(data), flow))
        case ToyRows():
            return _of_table(data.name, None, _chosen(data.name, draw_toy(data), flow))
        case MafRows():
            return _of_table(data.name, None, _chosen(data.name, load_maf(data, roots), flow))
        case ParquetStreamRows(path=path) | FileRows(path=path, format="parquet"):
            return _streamed(path, wanted, roots)
        case UploadedRows(name=name, format="parquet"):
            return _streamed(name, wanted, roots)
        case UploadedRows(name=name, format=format, header=header, csv=csv):
            file = FileData.model_construct(kind="file", path=name, format=format, header=header, csv=csv, **wanted)
        case FileRows(path=name, format=format):
            given = {field: getattr(data, field) for field in FileRows.model_fields}
            file = FileData.model_construct(**given, **wanted)
    unnamed = (*flow.columns, *flow.context_columns)
    if format == "npy" and (mapped := _mapped(file, roots, unnamed)) is not None:
        return mapped
    if format == "csv" and not file.header and (names := names_without_header(unnamed)) is not None:
        found = roots.find_file(name)
        raw = read_csv(found, header=False, names=names, options=file.csv)
        return _of_table(name, format, table_of(found, raw, file))
    return _of_table(name, format, load_file(file, roots, unnamed=unnamed))


def check_rows(rows: RowsInOrder, flow: FlowInput, on_read: Callable[[DataSummary], None]) -> None:
    """Read all rows once, and raise ``DataError`` with the place of the first value that the flow can't take.

    Args:
        on_read: gets the summary of what was read, before it may be refused.
    """
    modelled, context = ColumnStatistics(len(flow.columns)), ColumnStatistics(len(flow.context_columns))
    try:
        for table in rows.tables():
            modelled.see(table.rows)
            if table.context is not None:
                context.see(table.context)
            refuse_not_finite(table)
            if flow.levels is None:
                refuse_untransformable(table, flow.transforms)
            else:  # whole numbers, or these with noise: what the other transforms take
                _refuse_outside(table, flow.levels)
    finally:  # of rows that are refused, what was read up to them
        on_read(rows.summary(modelled, context, flow))


def _streamed(path: str, wanted: dict[str, Any], roots: DataRoots) -> RowsInOrder:
    source = ParquetRows(ParquetStreamData.model_construct(kind="parquet_stream", path=path, **wanted), roots)
    if not source.total:
        raise DataError(f"{path} has no rows", file=path)
    groups = source.groups
    return RowsInOrder(
        path,
        "parquet",
        [group.rows for group in groups],
        lambda number: source.read(groups[number]),
        source.notes,
        source.stored,
    )


def _mapped(data: FileData, roots: DataRoots, unnamed: Sequence[str]) -> RowsInOrder | None:
    """Return the rows of an array that is not read as a whole, None where it has to be."""
    file = roots.find_file(data.path)
    array = map_npy(file)
    if array is None:
        return None
    places = list(pieces(len(array), math.prod(array.shape[1:]))) or [slice(0)]

    def table(number: int) -> Table:
        part = table_of(file, of_array(file, array[places[number]]), data, unnamed)
        (source,) = part.sources
        return replace(part, sources=(replace(source, first_row=-places[number].start),))

    first = table(0)  # what is wrong with the array is told at once
    sizes = [place.stop - place.start for place in places]
    return RowsInOrder(file.name, data.format, sizes, table, (), first.sources[0].stored or ())


def _of_table(name: str, format: str | None, table: Table) -> RowsInOrder:
    (source,) = table.sources
    dim = len(table.columns) + len(table.context_columns)
    stored = source.stored or (table.rows.dtype.name,) * dim
    return RowsInOrder(name, format, [len(table.rows)], lambda _number: table, source.notes, stored)


def _chosen(name: str, table: Table, flow: FlowInput) -> Table:
    """Return the columns of a table that a flow takes."""
    places = {column: place for place, column in enumerate(table.columns)}
    missing = [column for column in (*flow.columns, *flow.context_columns) if column not in places]
    if missing:
        raise DataError(
            f"{name} has no column {missing[0]!r}, which the flow takes; it has: {', '.join(table.columns[:30])}",
            column=missing[0],
        )

    def of(columns: Sequence[str]) -> NDArray[Any]:
        return table.rows[:, [places[column] for column in columns]]

    context = of(flow.context_columns) if flow.context_columns else None
    return Table(flow.columns, of(flow.columns), flow.context_columns, context, sources=(Source(name),))


def _refuse_outside(table: Table, levels: int) -> None:
    for piece in pieces(*table.rows.shape):
        bad = (table.rows[piece] < 0) | (table.rows[piece] >= levels)
        if bad.any():
            at, column = (int(place) for place in np.argwhere(bad)[0])
            file, row = table.place(piece.start + at)
            name, value = table.columns[column], table.rows[piece.start + at, column]
            raise DataError(
                f"row {row} (from 0), column {name!r} of {file} is {value:g}: this flow takes whole numbers from 0 to "
                f"{levels - 1}, or these with noise from 0 to 1",
                file=file,
                column=name,
                row=row,
            )
