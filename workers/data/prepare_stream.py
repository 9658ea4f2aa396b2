"""From parquet files that need not fit into memory to data that can be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import ParquetStreamData
from symadj.workers.data.checks import TrainingColumns, refuse_not_finite, refuse_untransformable
from symadj.workers.data.errors import DataError
from symadj.workers.data.prepare import levels_of
from symadj.workers.data.roots import DataRoots
from symadj.workers.data.stream import ParquetRows, StreamBatches, TrainingRows
from symadj.workers.data.table import Part, Pipeline, PreparedData, Rows
from symadj.workers.data.transforms import FittedTransform, fit_transforms, moments, standardise

__all__ = ["prepare_stream"]

# Of the training rows that are kept in memory, for baselines and pictures.
_SAMPLE = 100_000

Index = NDArray[np.int64]


def prepare_stream(data: ParquetStreamData, roots: DataRoots) -> PreparedData:
    """Read everything once to check it and to take out the held-out rows, and again to fit what needs fitting.

    The held-out rows are drawn without replacement from all rows, by ``data.split_seed``.

    Raises:
        DataError: a file or a value is not fit for training, or there are too few rows.
    """
    source = ParquetRows(data, roots)
    held_out = data.validation_rows + data.test_rows
    if source.total - held_out < data.batch_size:
        raise DataError(
            f"{data.path} has {source.total} rows; less data.validation_rows {data.validation_rows} and data.test_rows "
            f"{data.test_rows} they are not enough for a batch of data.batch_size {data.batch_size}",
            file=data.path,
        )
    drawn = np.random.default_rng(data.split_seed).choice(source.total, held_out, replace=False)
    training = TrainingRows(source, np.sort(drawn))
    levels = levels_of(data.transforms)
    noise = Pipeline((), None if levels is None else data.split_seed)
    raw, context = _check(data, training, drawn, noisy=levels is not None)

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
        training=part(*batches(data.batch_size, data.split_seed).head(_SAMPLE)),
        validation=held(slice(data.validation_rows)),
        test=held(slice(data.validation_rows, None)),
        training_rows=len(training),
        batches=batches,
        context_columns=source.context_columns,
        context_transform=context_transform,
        levels=levels,
    )


def _check(
    data: ParquetStreamData, training: TrainingRows, drawn: Index, noisy: bool
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Read all rows once; return the raw rows and the context of those numbered ``drawn``, in that order."""
    source = training.source
    raw = np.empty((len(drawn), len(source.columns)), source.dtype)
    context = np.empty((len(drawn), len(source.context_columns)))
    columns, context_columns = TrainingColumns(source.columns), TrainingColumns(source.context_columns)
    by_number = np.argsort(drawn)
    for group in source.groups:
        table = source.read(group)
        refuse_not_finite(table)
        ends = np.searchsorted(drawn[by_number], [group.first, group.first + group.rows])
        goes_to = by_number[ends[0] : ends[1]]
        place = training.index(group) - group.first
        raw[goes_to] = table.rows[drawn[goes_to] - group.first]
        columns.see(table.rows[place])
        if table.context is not None:
            context[goes_to] = table.context[drawn[goes_to] - group.first]
            context_columns.see(table.context[place])
    if not noisy:  # noise gives such columns a density
        columns.refuse_constant(data.path)
        columns.refuse_repeated(data.path)
    context_columns.refuse_constant(data.path)
    return raw, context if source.context_columns else None


def _context_transform(training: TrainingRows) -> FittedTransform | None:
    if not training.source.context_columns:
        return None

    def contexts() -> Iterator[Rows]:
        for group in training.source.groups:
            context = training.read(group)[0].context
            assert context is not None
            yield context.astype(np.float64)

    return standardise(*moments(contexts()))
