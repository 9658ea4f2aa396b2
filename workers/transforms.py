"""Invertible maps from the raw data to the space that the flow models, with their log-determinants.

A transform is fitted on the training rows alone. The log |det| of its Jacobian turns a density of the transformed
rows into one of the raw rows: ``log p_raw(x) = log p_flow(y) + log |det dy/dx|``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.spec import ArcsinhTransform, StandardiseTransform, Transform

__all__ = ["DataError", "FittedTransform", "fit_transforms"]

Rows = NDArray[np.float64]


class DataError(Exception):
    """The data cannot be trained on; the message names the column, the row and what to do."""


class FittedTransform(ABC):
    """A transform with its parameters fixed."""

    @abstractmethod
    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the transformed rows [n, dim] and log |det dy/dx| of each row [n]."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Return what is needed to apply the transform elsewhere, as JSON values."""


@dataclass(frozen=True)
class _Arcsinh(FittedTransform):
    scale: float

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        return np.arcsinh(rows / self.scale), -np.log(np.hypot(rows, self.scale)).sum(1)

    def parameters(self) -> dict[str, Any]:
        return {"kind": "arcsinh", "scale": self.scale}


@dataclass(frozen=True, eq=False)
class _Standardise(FittedTransform):
    mean: Rows
    std: Rows

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        return (rows - self.mean) / self.std, np.full(len(rows), -np.log(self.std).sum())

    def parameters(self) -> dict[str, Any]:
        return {"kind": "standardise", "mean": self.mean.tolist(), "std": self.std.tolist()}


def fit_transforms(transforms: Sequence[Transform], training: Rows, columns: Sequence[str]) -> list[FittedTransform]:
    """Fit ``transforms`` one after the other, each on the training rows as the ones before it leave them.

    Raises:
        DataError: a column has the same value in all training rows, so that it cannot be standardised.
    """
    fitted: list[FittedTransform] = []
    for transform in transforms:
        step = _fit(transform, training, columns)
        training, _ = step(training)
        fitted.append(step)
    return fitted


def _fit(transform: Transform, training: Rows, columns: Sequence[str]) -> FittedTransform:
    match transform:
        case ArcsinhTransform():
            return _Arcsinh(transform.scale)
        case StandardiseTransform():
            for column, name in enumerate(columns):
                # Compared with its first value: the standard deviation of a constant may round to above zero.
                if np.all(training[:, column] == training[0, column]):
                    raise DataError(
                        f"column {name!r} has the value {training[0, column]:g} in all {len(training)} training "
                        "rows; a constant column has no density: leave it out"
                    )
            return _Standardise(training.mean(0), training.std(0))
