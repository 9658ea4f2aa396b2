"""The transforms of a spec, fitted on the training rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.spec.transforms import (
    ArcsinhTransform,
    DequantiseTransform,
    LogitTransform,
    StandardiseTransform,
    Transform,
)
from symadj.workers.data.errors import DataError
from symadj_core.transforms import Arcsinh, Dequantise, FittedTransform, Logit, OfColumns, Standardise

__all__ = ["fit_transforms", "moments"]

Rows = NDArray[np.float64]


def fit_transforms(
    transforms: Sequence[Transform],
    given: Sequence[FittedTransform],
    training: Callable[[], Iterator[Rows]],
    columns: Sequence[str],
) -> tuple[FittedTransform, ...]:
    """Fit ``transforms`` one after the other, each on the training rows as the ones before it leave them.

    Args:
        transforms: as declared in the spec.
        given: transforms that come with the data set, applied first.
        training: returns the training rows anew, some [n, dim] at a time.
        columns: their names.

    Returns:
        ``given`` and the fitted transforms.

    Raises:
        DataError: a column is constant, so that it cannot be standardised, or a transform is of a column that is not
            there.
    """
    fitted = list(given)

    def transformed() -> Iterator[Rows]:
        for rows in training():
            for step in fitted:
                rows, _ = step(rows)
            yield rows

    for transform in transforms:
        fitted.append(_fit(transform, transformed, columns))
    return tuple(fitted)


def _fit(transform: Transform, training: Callable[[], Iterator[Rows]], columns: Sequence[str]) -> FittedTransform:
    match transform:
        case DequantiseTransform():
            return Dequantise(transform.levels)
        case _ if transform.columns is not None:
            places = [_place(name, transform.kind, columns) for name in transform.columns]
            of_all = transform.model_copy(update={"columns": None})
            return OfColumns(_fit(of_all, lambda: (rows[:, places] for rows in training()), transform.columns), places)
        case ArcsinhTransform():
            return Arcsinh(transform.scale)
        case LogitTransform():
            return Logit(transform.alpha)
        case StandardiseTransform():
            mean, std = moments(training())
            for column, deviation in zip(columns, std, strict=True):
                if not deviation > 0:
                    raise DataError(f"column {column!r} has no spread that could be standardised", column=column)
            return Standardise(mean, std)


def _place(name: str, kind: str, columns: Sequence[str]) -> int:
    if name not in columns:
        shown = ", ".join(columns[:30]) + (", ..." if len(columns) > 30 else "")
        raise DataError(f"data.transforms: {kind} names the column {name!r}; the columns are: {shown}", column=name)
    return columns.index(name)


def moments(pieces: Iterable[Rows]) -> tuple[Rows, Rows]:
    """Return mean and standard deviation (divided by n) by column [dim] of ``pieces`` [n, dim], in one pass.

    Pieces are merged by the update of Chan, Golub and LeVeque (1983).
    """
    count = 0
    mean = squares = np.zeros(0)
    for rows in pieces:
        if not len(rows):
            continue
        here = rows.mean(0)
        around = ((rows - here) ** 2).sum(0)
        if not count:
            count, mean, squares = len(rows), here, around
            continue
        total = count + len(rows)
        apart = here - mean
        squares = squares + around + apart**2 * (count * len(rows) / total)
        mean = mean + apart * (len(rows) / total)
        count = total
    return mean, np.sqrt(squares / count)
