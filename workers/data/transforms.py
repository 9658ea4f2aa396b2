"""Invertible maps from the raw data to the space that the flow models, with their log-determinants.

A transform is fitted on the training rows alone. The log |det| of its Jacobian turns a density of the transformed
rows into one of the raw rows: ``log p_raw(x) = log p_flow(y) + log |det dy/dx|``. A fitted transform is its
``parameters()``: they are stored with the model, and ``restore_transforms`` makes the same maps of them again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

__all__ = ["FittedTransform", "fit_transforms", "invert", "restore_transforms", "standardise"]

Rows = NDArray[np.float64]


class FittedTransform(ABC):
    """A transform with its parameters fixed."""

    @abstractmethod
    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the transformed rows [n, dim] and log |det dy/dx| of each row [n]."""

    @abstractmethod
    def inverse(self, rows: Rows) -> Rows:
        """Return the rows [n, dim] that are transformed to ``rows``."""

    def unrounded(self, rows: Rows) -> Rows:
        """Return as ``inverse`` what is transformed to ``rows``, without rounding to whole numbers."""
        return self.inverse(rows)

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Return what is needed to apply the transform elsewhere, as JSON values."""

    def misfits(self, rows: Rows) -> tuple[NDArray[np.bool_], str] | None:
        """Return where ``rows`` [n, dim] can't be transformed, and what is asked of them; None: all reals can."""
        return None


@dataclass(frozen=True)
class _Arcsinh(FittedTransform):
    scale: float

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        return np.arcsinh(rows / self.scale), -np.log(np.hypot(rows, self.scale)).sum(1)

    def inverse(self, rows: Rows) -> Rows:
        return np.asarray(np.sinh(rows) * self.scale)

    def parameters(self) -> dict[str, Any]:
        return {"kind": "arcsinh", "scale": self.scale}


@dataclass(frozen=True, eq=False)
class _Standardise(FittedTransform):
    mean: Rows
    std: Rows

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        return (rows - self.mean) / self.std, np.full(len(rows), -np.log(self.std).sum())

    def inverse(self, rows: Rows) -> Rows:
        return np.asarray(rows * self.std + self.mean)

    def parameters(self) -> dict[str, Any]:
        return {"kind": "standardise", "mean": self.mean.tolist(), "std": self.std.tolist()}


@dataclass(frozen=True)
class _Logit(FittedTransform):
    alpha: float

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        inner = self.alpha + (1 - 2 * self.alpha) * rows
        # 1 - inner, without the cancellation near 1.
        outer = self.alpha + (1 - 2 * self.alpha) * (1 - rows)
        low, high = np.log(inner), np.log(outer)
        return low - high, (np.log1p(-2 * self.alpha) - low - high).sum(1)

    def inverse(self, rows: Rows) -> Rows:
        with np.errstate(over="ignore"):  # of exp, where the logistic function is 0
            return np.asarray((1 / (1 + np.exp(-rows)) - self.alpha) / (1 - 2 * self.alpha))

    def parameters(self) -> dict[str, Any]:
        return {"kind": "logit", "alpha": self.alpha}

    def misfits(self, rows: Rows) -> tuple[NDArray[np.bool_], str] | None:
        return ~((rows >= 0) & (rows <= 1)), "logit takes values from 0 to 1: dequantise or scale them first"


@dataclass(frozen=True)
class _Dequantise(FittedTransform):
    """``x -> x / levels``; the noise was added to the whole numbers before."""

    levels: int

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        return rows / self.levels, np.full(len(rows), -rows.shape[1] * np.log(self.levels))

    def inverse(self, rows: Rows) -> Rows:
        """Return whole numbers: the noise is cut off, and what the flow puts beyond the ends is brought to them."""
        return np.clip(np.floor(rows * self.levels), 0, self.levels - 1)

    def unrounded(self, rows: Rows) -> Rows:
        return rows * self.levels

    def parameters(self) -> dict[str, Any]:
        return {"kind": "dequantise", "levels": self.levels}

    def misfits(self, rows: Rows) -> tuple[NDArray[np.bool_], str] | None:
        """``rows`` are the whole numbers, without noise."""
        bad = (rows != np.floor(rows)) | (rows < 0) | (rows >= self.levels)
        return bad, f"dequantise takes whole numbers from 0 to {self.levels - 1}: set its levels, or leave it out"


@dataclass(frozen=True, eq=False)
class _OfColumns(FittedTransform):
    """``inner`` on some columns, the others as they are.

    Attributes:
        places: numbers of the columns, from 0.
    """

    inner: FittedTransform
    places: list[int]

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        transformed, log_abs_det = self.inner(rows[:, self.places])
        return self._put(rows, transformed), log_abs_det

    def inverse(self, rows: Rows) -> Rows:
        return self._put(rows, self.inner.inverse(rows[:, self.places]))

    def parameters(self) -> dict[str, Any]:
        return self.inner.parameters() | {"columns": self.places}

    def misfits(self, rows: Rows) -> tuple[NDArray[np.bool_], str] | None:
        found = self.inner.misfits(rows[:, self.places])
        if found is None:
            return None
        bad = np.zeros(rows.shape, bool)
        bad[:, self.places] = found[0]
        return bad, found[1]

    def _put(self, rows: Rows, values: Rows) -> Rows:
        rows = rows.copy()
        rows[:, self.places] = values
        return rows


def standardise(mean: Rows, std: Rows) -> FittedTransform:
    """Return ``x -> (x - mean) / std`` by column, for ``mean`` and ``std`` [dim]."""
    return _Standardise(mean, std)


def restore_transforms(parameters: Iterable[dict[str, Any]]) -> tuple[FittedTransform, ...]:
    """Return the transforms whose ``parameters()`` these are.

    Raises:
        ValueError: a ``kind`` is not known.
    """
    return tuple(_restore(given) for given in parameters)


def _restore(given: dict[str, Any]) -> FittedTransform:
    if "columns" in given:
        inner = {name: value for name, value in given.items() if name != "columns"}
        return _OfColumns(_restore(inner), given["columns"])
    match given["kind"]:
        case "arcsinh":
            return _Arcsinh(given["scale"])
        case "standardise":
            return _Standardise(np.asarray(given["mean"], np.float64), np.asarray(given["std"], np.float64))
        case "logit":
            return _Logit(given["alpha"])
        case "dequantise":
            return _Dequantise(given["levels"])
    raise ValueError(f"no transform is of the kind {given['kind']!r}: arcsinh, standardise, logit, dequantise")


def invert(transforms: Sequence[FittedTransform], rows: Rows) -> Rows:
    """Return ``rows`` [n, dim] of the flow's space in original units."""
    for transform in reversed(transforms):
        rows = transform.inverse(rows)
    return rows


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
            return _Dequantise(transform.levels)
        case _ if transform.columns is not None:
            places = [_place(name, transform.kind, columns) for name in transform.columns]
            of_all = transform.model_copy(update={"columns": None})
            return _OfColumns(_fit(of_all, lambda: (rows[:, places] for rows in training()), transform.columns), places)
        case ArcsinhTransform():
            return _Arcsinh(transform.scale)
        case LogitTransform():
            return _Logit(transform.alpha)
        case StandardiseTransform():
            mean, std = moments(training())
            for column, deviation in zip(columns, std, strict=True):
                if not deviation > 0:
                    raise DataError(f"column {column!r} has no spread that could be standardised", column=column)
            return _Standardise(mean, std)


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
