"""From parquet files that need not fit into memory to data that can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.data_summary import MAX_COLUMNS, DataSummary, SourceSummary
from symadj.service.contract.spec.data import ParquetStreamData
from symadj.workers.data.checks import TrainingColumns, refuse_not_finite, refuse_untransformable
from symadj.workers.data.dependence import LinearDependence
from symadj.workers.data.errors import DataError
from symadj.workers.data.prepare import levels_of
from symadj.workers.data.roots import DataRoots
from symadj.workers.data.stream import ParquetRows, StreamBatches, TrainingRows
from symadj.workers.data.summary import ColumnStatistics, remarks_on
from symadj.workers.data.table import Part, Pipeline, PreparedData, Rows
from symadj.workers.data.transforms import fit_transforms, moments
from symadj_core.transforms import FittedTransform, Standardise

__all__ = ["check_stream", "prepare_stream"]

# Of the training rows that are kept in memory, for baselines and pictures.
_SAMPLE = 100_000

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Checked:
    """Rows that are fit for training.

    Attributes:
        training: those to train on.
        validation_rows: how many of the held-out rows are for validation, the first ones; the others are for the test.
        drawn: numbers of the held-out rows among all rows.
        raw, context: the held-out rows, in that order.
        noise: that dequantises them.
    """

    training: TrainingRows
    validation_rows: int
    drawn: Index
    raw: NDArray[Any]
    context: NDArray[Any] | None
    noise: Pipeline


def check_stream(
    data: ParquetStreamData, roots: DataRoots, on_read: Callable[[DataSummary], None] | None = None
) -> _Checked:
    """Read everything once to check it and to take out the held-out rows.

    These are drawn without replacement from all rows, by ``data.split_seed``. ``on_read`` gets the summary of all rows.

    Raises:
        DataError: a file or a value is not fit for training, or there are too few rows.
    """
    source = ParquetRows(data, roots)
    validation_rows, test_rows = data.held_out_rows(source.total)
    held_out = validation_rows + test_rows
    fewest = data.batch_size or 1
    if source.total - held_out < fewest:
        raise DataError(
            f"{data.path} has {source.total} rows; less data.validation_rows {validation_rows} and data.test_rows "
            f"{test_rows} they are not enough for a batch of data.batch_size {fewest}",
            file=data.path,
        )
    drawn = np.random.default_rng(data.split_seed).choice(source.total, held_out, replace=False)
    training = TrainingRows(source, np.sort(drawn))
    levels = levels_of(data.transforms)
    raw, context = _check(data, training, drawn, on_read, noisy=levels is not None)
    return _Checked(
        training, validation_rows, drawn, raw, context, Pipeline((), None if levels is None else data.split_seed)
    )


def prepare_stream(
    data: ParquetStreamData, roots: DataRoots, on_read: Callable[[DataSummary], None] | None = None
) -> PreparedData:
    """Check everything (:func:`check_stream`), and read it again to fit what needs fitting.

    Raises:
        DataError: a file or a value is not fit for training, or there are too few rows.
    """
    checked = check_stream(data, roots, on_read)
    training, noise, drawn = checked.training, checked.noise, checked.drawn
    raw, context = checked.raw, checked.context
    source = training.source

    def training_rows() -> Iterator[Rows]:
        for group in source.groups:
            table, index = training.read(group)
            yield noise.noisy(table.rows, index, epoch=0)

    transforms = fit_transforms(data.transforms, (), training_rows, source.columns)
    if any(transform.misfits(raw[:1]) is not None for transform in transforms):
        for group in source.groups:
            refuse_untransformable(source.read(group), transforms)
    pipeline = Pipeline(transforms, noise.noise_seed)
    context_transform = _context_transform(training)

    def part(raw: NDArray[Any], context: NDArray[Any] | None, index: Index) -> Part:
        if context is None or context_transform is None:
            return Part(pipeline, raw, index, None)
        return Part(pipeline, raw, index, context_transform(context.astype(np.float64))[0])

    def batches(batch_size: int, seed: int) -> StreamBatches:
        return StreamBatches(
            training, pipeline, context_transform, batch_size=batch_size, buffer_rows=data.buffer_rows, seed=seed
        )

    def held(place: slice) -> Part:
        return part(raw[place], None if context is None else context[place], drawn[place])

    return PreparedData(
        columns=source.columns,
        transforms=transforms,
        training=part(*batches(1, data.split_seed).head(_SAMPLE)),
        validation=held(slice(checked.validation_rows)),
        test=held(slice(checked.validation_rows, None)),
        training_rows=len(training),
        batches=batches,
        context_columns=source.context_columns,
        context_transform=context_transform,
        levels=levels_of(data.transforms),
    )


def _check(
    data: ParquetStreamData,
    training: TrainingRows,
    drawn: Index,
    on_read: Callable[[DataSummary], None] | None,
    *,
    noisy: bool,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Read all rows once; return the raw rows and the context of those numbered ``drawn``, in that order."""
    source = training.source
    raw = np.empty((len(drawn), len(source.columns)), source.dtype)
    context = np.empty((len(drawn), len(source.context_columns)))
    columns, context_columns = TrainingColumns(source.columns), TrainingColumns(source.context_columns)
    statistics = [ColumnStatistics(len(names)) for names in (source.columns, source.context_columns)]
    dependence = LinearDependence(source.columns, source.total)
    by_number = np.argsort(drawn)
    try:
        for group in source.groups:
            table = source.read(group)
            for seen, values in zip(statistics, (table.rows, table.context), strict=True):
                if on_read is not None and values is not None:
                    seen.see(values)
            if on_read is not None and not noisy:
                dependence.see(table.rows)
            refuse_not_finite(table)
            ends = np.searchsorted(drawn[by_number], [group.first, group.first + group.rows])
            goes_to = by_number[ends[0] : ends[1]]
            place = training.index(group) - group.first
            raw[goes_to] = table.rows[drawn[goes_to] - group.first]
            columns.see(table.rows[place])
            if table.context is not None:
                context[goes_to] = table.context[drawn[goes_to] - group.first]
                context_columns.see(table.context[place])
    finally:  # of rows that are refused, what was read up to them
        if on_read is not None and statistics[0].rows:
            on_read(_summary(data, source, dependence.remarks(), *statistics))
    if not noisy:  # noise gives such columns a density
        columns.refuse_constant(data.path)
        columns.refuse_repeated(data.path)
    context_columns.refuse_constant(data.path)
    return raw, context if source.context_columns else None


def _summary(
    data: ParquetStreamData,
    source: ParquetRows,
    dependence: list[str],
    modelled: ColumnStatistics,
    context: ColumnStatistics,
) -> DataSummary:
    """Return the summary of the rows that were read."""
    dim = len(source.columns)
    columns = modelled.columns(source.columns, source.stored[:dim])[:MAX_COLUMNS]
    columns += context.columns(source.context_columns, source.stored[dim:], context=True)
    files = len({group.part for group in source.groups})
    notes = [f"the rows are those of {files} files"] if files > 1 else []
    if modelled.rows < source.total:
        notes.append(f"only the first {modelled.rows:,} of {source.total:,} rows were read")
    of_source = SourceSummary(
        name=data.path,
        format="parquet",
        rows=modelled.rows,
        dim=len(source.stored),
        columns=columns,
        notes=[*notes, *source.notes],
        remarks=[*remarks_on(columns), *dependence],
    )
    return DataSummary(
        sources=[of_source], transforms=[transform.model_dump(mode="json") for transform in data.transforms]
    )


def _context_transform(training: TrainingRows) -> FittedTransform | None:
    if not training.source.context_columns:
        return None

    def contexts() -> Iterator[Rows]:
        for group in training.source.groups:
            context = training.read(group)[0].context
            assert context is not None
            yield context.astype(np.float64)

    return Standardise(*moments(contexts()))
