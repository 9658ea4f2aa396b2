"""What was read, for people: each column's range, mean and zeros, and what looks wrong about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.data_summary import MAX_COLUMNS, ColumnSummary, DataSummary, SourceSummary
from symadj.service.contract.spec.data import FileData
from symadj.workers.data.dependence import LinearDependence
from symadj.workers.data.prepare import TableData, levels_of, transforms_of
from symadj.workers.data.table import Source, Table, pieces

__all__ = ["ColumnStatistics", "in_words", "remarks_on", "summarise"]

_MOST_NAMED = 5
# Beyond these a column, or two beside each other, are remarked on.
_MANY_ZEROS = 0.5
_FAR_APART = 1e6
# A power of two; more rows than its inverse are not looked at together.
_SMALLER = 2.0**-40


class ColumnStatistics:
    """Range, mean and zeros of columns, in float64. The rows are shown some at a time.

    Values that are NaN or infinite are counted, and left out of range and mean.
    """

    def __init__(self, dim: int) -> None:
        self.rows = 0
        self._zeros = np.zeros(dim, np.int64)
        self._finite = np.zeros(dim, np.int64)
        self._min, self._max, self._mean = np.full(dim, np.inf), np.full(dim, -np.inf), np.zeros(dim)

    def see(self, rows: NDArray[Any]) -> None:
        """Take ``rows`` [n, dim] into account."""
        for piece in pieces(*rows.shape):
            self._see(rows[piece].astype(np.float64))

    def _see(self, values: NDArray[np.float64]) -> None:
        finite = np.isfinite(values)
        here = finite.sum(0)
        self.rows += len(values)
        self._zeros += (values == 0).sum(0)
        self._min = np.minimum(self._min, values.min(0, where=finite, initial=np.inf))
        self._max = np.maximum(self._max, values.max(0, where=finite, initial=-np.inf))
        self._finite += here
        count = np.maximum(here, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = values.sum(0, where=finite) / count
            if not np.isfinite(mean).all():  # very large values are made smaller first, and lose no digit
                small = (values * _SMALLER).sum(0, where=finite) / count
                small = np.clip(small, self._min * _SMALLER, self._max * _SMALLER)
                mean = np.where(np.isfinite(mean), mean, small / _SMALLER)
            # In two halves, as the difference of two numbers may be twice as large as any.
            moved = (mean / 2 - self._mean / 2) * (here / np.maximum(self._finite, 1))
            mean = self._mean + moved + moved
        # Rounding may take a mean of equal values beyond them, and the largest number's to infinity.
        self._mean = np.where(self._finite > 0, np.clip(mean, self._min, self._max), 0.0)

    def columns(self, names: Sequence[str], stored: Sequence[str], *, context: bool = False) -> list[ColumnSummary]:
        """Return what was seen of each column, given names and types in the file."""
        summaries = []
        for at, (name, dtype) in enumerate(zip(names, stored, strict=True)):
            known = bool(self._finite[at])
            summaries.append(
                ColumnSummary(
                    name=name,
                    context=context,
                    dtype=dtype,
                    min=float(self._min[at]) if known else None,
                    mean=float(self._mean[at]) if known else None,
                    max=float(self._max[at]) if known else None,
                    zeros=float(self._zeros[at] / max(self.rows, 1)),
                    not_finite=int(self.rows - self._finite[at]),
                    remarks=self._remarks(at),
                )
            )
        return summaries

    def _remarks(self, at: int) -> list[str]:
        remarks = []
        if not_finite := int(self.rows - self._finite[at]):
            remarks.append(f"{not_finite} not finite")
        if self.rows > 1 and self._min[at] == self._max[at]:
            remarks.append("constant")
        elif self._zeros[at] > _MANY_ZEROS * self.rows:
            remarks.append("mostly zeros")
        return remarks


def summarise(data: TableData, table: Table) -> DataSummary:
    """Return what is known of the rows of ``data`` before they are checked, split and transformed."""
    sources = table.sources or (Source(data.name if not isinstance(data, FileData) else data.path),)
    ends = [source.first_row for source in sources[1:]] + [len(table.rows)]
    own = [{"kind": transform.parameters()["kind"]} for transform in table.transforms]
    return DataSummary(
        sources=[
            _of_source(data, table, source, slice(source.first_row, end))
            for source, end in zip(sources, ends, strict=True)
        ],
        image=table.shape,
        transforms=[*own, *(transform.model_dump(mode="json") for transform in transforms_of(data, table))],
    )


def _of_source(data: TableData, table: Table, source: Source, place: slice) -> SourceSummary:
    rows, context = table.rows[place], None if table.context is None else table.context[place]
    dependence: list[str] = []
    kinds = [rows.dtype.name] * rows.shape[1] + ([] if context is None else [context.dtype.name] * context.shape[1])
    stored = source.stored or kinds
    if table.shape is None:
        shown = min(MAX_COLUMNS, rows.shape[1])
        columns = _of_columns(rows[:, :shown]).columns(table.columns[:shown], stored[:shown])
        if levels_of(transforms_of(data, table)) is None:  # noise makes any columns independent
            dependence = _dependence(table.columns, rows)
    else:
        columns = _of_channels(rows, table.shape, stored[0])
    if context is not None:
        columns += _of_columns(context).columns(table.context_columns, stored[rows.shape[1] :], context=True)
    return SourceSummary(
        name=source.file,
        format=data.format if isinstance(data, FileData) else None,
        rows=len(rows),
        dim=len(kinds),
        columns=columns,
        notes=list(source.notes),
        remarks=[*remarks_on(columns), *dependence],
    )


def _dependence(names: Sequence[str], rows: NDArray[Any]) -> list[str]:
    dependence = LinearDependence(names, len(rows))
    for piece in pieces(*rows.shape):
        dependence.see(rows[piece])
    return dependence.remarks()


def _of_columns(rows: NDArray[Any]) -> ColumnStatistics:
    statistics = ColumnStatistics(rows.shape[1])
    statistics.see(rows)
    return statistics


def _of_channels(rows: NDArray[Any], shape: tuple[int, int, int], stored: str) -> list[ColumnSummary]:
    """Return one entry for each channel of the images [n, channels * height * width]."""
    channels = shape[0]
    statistics = ColumnStatistics(channels)
    for piece in pieces(*rows.shape):
        images = rows[piece].reshape(-1, channels, shape[1] * shape[2])
        statistics.see(images.transpose(0, 2, 1).reshape(-1, channels))
    names = ["pixels"] if channels == 1 else [f"pixels of channel {channel}" for channel in range(channels)]
    return statistics.columns(names, [stored] * channels)


def remarks_on(columns: Iterable[ColumnSummary]) -> list[str]:
    """Return a sentence where the largest values of two columns are far apart: one of them may have a wrong scale."""
    sizes = {
        column.name: size
        for column in columns
        if column.min is not None and column.max is not None and (size := max(abs(column.min), abs(column.max)))
    }
    if not sizes:
        return []
    small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[large] <= _FAR_APART * sizes[small]:
        return []
    return [
        f"very different scales: {large!r} reaches {sizes[large]:.3g}, {small!r} only {sizes[small]:.3g} "
        "(largest absolute values)"
    ]


def in_words(summary: DataSummary) -> str:
    """Return how much was read, and the columns to look at, in a line."""
    read = [f"{source.rows:,} rows of {source.dim:,} values from {source.name}" for source in summary.sources]
    odd = [
        f"{column.name!r} ({', '.join(column.remarks)})"
        for source in summary.sources
        for column in source.columns
        if column.remarks
    ]
    remarks = [remark for source in summary.sources for remark in source.remarks]
    if odd:
        more = f" and {len(odd) - _MOST_NAMED:,} more" if len(odd) > _MOST_NAMED else ""
        remarks.append(", ".join(odd[:_MOST_NAMED]) + more)
    return ", ".join(read) + ("; look at " + "; ".join(remarks) if remarks else "")
