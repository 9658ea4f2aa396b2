"""From a raw table to parts that can be trained on, or the reason why they cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.data import (
    IMAGE_TRANSFORMS,
    USUAL_TRANSFORMS,
    BuiltinData,
    FileData,
    MafData,
    ToyData,
)
from symadj.service.contract.spec.transforms import DequantiseTransform, Transform
from symadj.workers.data.batches import PartBatches
from symadj.workers.data.checks import TrainingColumns, of_file, refuse_not_finite, refuse_untransformable
from symadj.workers.data.errors import DataError
from symadj.workers.data.table import Part, Pipeline, PreparedData, Rows, Table, pieces
from symadj.workers.data.transforms import fit_transforms, moments
from symadj_core.transforms import FittedTransform, Standardise

__all__ = ["TableData", "levels_of", "prepare", "transforms_of"]

SMALLEST_PART = 2

Index = NDArray[np.int64]
TableData = BuiltinData | ToyData | FileData | MafData


def prepare(data: TableData, table: Table) -> PreparedData:
    """Split ``table`` and transform it.

    A table without a split of its own is permuted by ``numpy.random.RandomState(split_seed)``, whose stream numpy
    keeps fixed for ever; the first rows are for training, the next for validation, the last for testing. Transforms
    are fitted on the training rows only.

    Raises:
        DataError: a value is not finite or can't be transformed, a column is constant or equals another, there are
            too few rows, or the batch is larger than the training part.
    """
    refuse_not_finite(table)
    training, validation, test = _split(data, table)
    wanted = transforms_of(data, table)
    levels = levels_of(wanted)
    _refuse_without_density(table, training, noisy=levels is not None)
    noise_seed = None if levels is None else data.split_seed
    noise = Pipeline((), noise_seed)

    def training_pieces() -> Iterator[Rows]:
        for piece in pieces(len(training), len(table.columns)):
            index = training[piece]
            yield noise.noisy(table.rows[index], index, epoch=0)

    transforms = fit_transforms(wanted, table.transforms, training_pieces, table.columns)
    refuse_untransformable(table, transforms)
    context_transform, context = _standardised_context(table, training)
    pipeline = Pipeline(transforms, noise_seed)

    def part(index: Index) -> Part:
        return Part(pipeline, table.rows[index], index, None if context is None else context[index])

    rows = part(training)
    return PreparedData(
        columns=table.columns,
        transforms=transforms,
        training=rows,
        validation=part(validation),
        test=part(test),
        training_rows=len(rows),
        batches=lambda batch_size, seed: PartBatches(rows, batch_size, seed),
        context_columns=table.context_columns,
        context_transform=context_transform,
        shape=table.shape,
        levels=levels,
    )


def transforms_of(data: TableData, table: Table) -> tuple[Transform, ...]:
    """Return the transforms of the spec, and what suits the rows where it leaves them to what the file holds."""
    if data.transforms is not None:
        return data.transforms
    return IMAGE_TRANSFORMS if table.shape is not None and table.rows.dtype == np.uint8 else USUAL_TRANSFORMS


def levels_of(transforms: tuple[Transform, ...]) -> int | None:
    """Return the number of values of a dequantised column, None where the rows are not dequantised."""
    first = transforms[0] if transforms else None
    return first.levels if isinstance(first, DequantiseTransform) else None


def _split(data: TableData, table: Table) -> tuple[Index, Index, Index]:
    """Return the rows of the three parts."""
    total = len(table.rows)
    test_from = total if table.test_from is None else table.test_from
    if table.validation_from is not None:
        order = np.arange(test_from)
        train_end = table.validation_from
        validation_end = test_from
    else:
        assert not isinstance(data, MafData)  # these come with a split
        test_fraction = data.test_fraction or 0.0
        order = np.random.RandomState(data.split_seed).permutation(test_from)
        # Rounded first: 1 - 0.1 - 0.1 is a little below 0.8 in floating point, and would lose a row.
        train_end = int(round(test_from * (1 - (data.validation_fraction + test_fraction)), 6))
        validation_end = int(round(test_from * (1 - test_fraction), 6))
    test = np.concatenate([order[validation_end:], np.arange(test_from, total)])
    parts = {"training": order[:train_end], "validation": order[train_end:validation_end], "test": test}
    for name, index in parts.items():
        if len(index) < SMALLEST_PART:
            file, _ = table.place(0)
            raise DataError(
                f"{total} rows{of_file(file)} leave {len(index)} for {name}, at least {SMALLEST_PART} are needed: give "
                "more rows or change data.validation_fraction and data.test_fraction",
                file=file,
            )
    if data.batch_size is not None and data.batch_size > train_end:
        raise DataError(
            f"data.batch_size {data.batch_size} is larger than the {train_end} training rows: "
            f"at most {train_end} is possible"
        )
    return parts["training"], parts["validation"], parts["test"]


def _refuse_without_density(table: Table, training: Index, noisy: bool) -> None:
    """Refuse constant columns, and such as equal another one; noise gives both a density, and a context needs none."""
    file, _ = table.place(0)
    if table.context is not None:
        _seen(table.context_columns, table.context, training).refuse_constant(file)
    if not noisy:
        columns = _seen(table.columns, table.rows, training)
        columns.refuse_constant(file)
        columns.refuse_repeated(file)


def _seen(columns: Sequence[str], rows: NDArray[Any], training: Index) -> TrainingColumns:
    seen = TrainingColumns(columns)
    for piece in pieces(len(training), len(columns)):
        seen.see(rows[training[piece]])
    return seen


def _standardised_context(table: Table, training: Index) -> tuple[FittedTransform | None, Rows | None]:
    """Return the context of all rows with zero mean and unit variance over the training rows."""
    if table.context is None:
        return None, None
    context = table.context.astype(np.float64)
    transform = Standardise(*moments([context[training]]))
    return transform, transform(context)[0]
