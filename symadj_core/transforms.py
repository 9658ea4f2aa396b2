"""Invertible maps between the units of the data and the space that a flow models, with their log-determinants.

The log |det| of a transform's Jacobian turns a density of the transformed rows into one of the raw rows:
``log p_raw(x) = log p_flow(y) + log |det dy/dx|``. A fitted transform is its ``parameters()``: they are stored with
the model, and ``restore_transforms`` makes the same maps of them again.

Rows are numpy arrays or torch tensors, and so is what comes back: training reads data without torch, and a trained
flow differentiates through the same formulas.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Arcsinh",
    "Dequantise",
    "FittedTransform",
    "Logit",
    "OfColumns",
    "Standardise",
    "invert",
    "restore_transforms",
]

Rows = TypeVar("Rows", NDArray[np.float64], "Tensor")


def _module_of(rows: Any) -> Any:
    """numpy or torch, whose functions have the same names."""
    return np if isinstance(rows, np.ndarray) else importlib.import_module("torch")


def _beside(values: NDArray[np.float64], rows: Rows) -> Rows:
    """``values`` as rows are: an array, or a tensor of their dtype and on their device."""
    if isinstance(rows, np.ndarray):
        return values
    tensor: Tensor = rows.new_tensor(values)
    return tensor


class FittedTransform(ABC):
    """A transform with its parameters fixed. Rows are [n, dim], float64 save on devices that have none."""

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

    def misfits(self, rows: Rows) -> tuple[Any, str] | None:
        """Return where ``rows`` [n, dim] can't be transformed (bool, [n, dim]), and what is asked of them; None: all
        reals can."""
        return None


@dataclass(frozen=True)
class Arcsinh(FittedTransform):
    """``x -> arcsinh(x / scale)``."""

    scale: float

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        xp = _module_of(rows)
        scaled = rows / self.scale
        transformed: Rows = xp.arcsinh(scaled)
        # dy/dx = 1 / (scale hypot(1, u)). ONNX has no hypot; this one does not overflow, and has all its derivatives
        # at 0, which data are full of.
        beyond = xp.abs(scaled) > 1
        large = xp.where(beyond, scaled, xp.ones_like(scaled))
        small = xp.where(beyond, 1 / large, scaled)
        log_hypot = xp.log(xp.abs(large)) + xp.log1p(small * small) / 2
        log_abs_det: Rows = -(log_hypot + float(np.log(self.scale))).sum(1)
        return transformed, log_abs_det

    def inverse(self, rows: Rows) -> Rows:
        raw: Rows = _module_of(rows).sinh(rows) * self.scale
        return raw

    def parameters(self) -> dict[str, Any]:
        return {"kind": "arcsinh", "scale": self.scale}


@dataclass(frozen=True, eq=False)
class Standardise(FittedTransform):
    """``x -> (x - mean) / std`` by column, for ``mean`` and ``std`` [dim] float64."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        log_abs_det: Rows = _module_of(rows).full_like(rows[:, 0], -float(np.log(self.std).sum()))
        transformed: Rows = (rows - _beside(self.mean, rows)) / _beside(self.std, rows)
        return transformed, log_abs_det

    def inverse(self, rows: Rows) -> Rows:
        raw: Rows = rows * _beside(self.std, rows) + _beside(self.mean, rows)
        return raw

    def parameters(self) -> dict[str, Any]:
        return {"kind": "standardise", "mean": self.mean.tolist(), "std": self.std.tolist()}


@dataclass(frozen=True)
class Logit(FittedTransform):
    """``x -> logit(alpha + (1 - 2 alpha) x)`` of values from 0 to 1 (Dinh et al., ICLR 2017, section 4.1)."""

    alpha: float

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        xp = _module_of(rows)
        inner = self.alpha + (1 - 2 * self.alpha) * rows
        # 1 - inner, without the cancellation near 1.
        outer = self.alpha + (1 - 2 * self.alpha) * (1 - rows)
        low, high = xp.log(inner), xp.log(outer)
        transformed: Rows = low - high
        log_abs_det: Rows = (float(np.log1p(-2 * self.alpha)) - low - high).sum(1)
        return transformed, log_abs_det

    def inverse(self, rows: Rows) -> Rows:
        with np.errstate(over="ignore"):  # of exp, where the logistic function is 0
            raw: Rows = (1 / (1 + _module_of(rows).exp(-rows)) - self.alpha) / (1 - 2 * self.alpha)
        return raw

    def parameters(self) -> dict[str, Any]:
        return {"kind": "logit", "alpha": self.alpha}

    def misfits(self, rows: Rows) -> tuple[Any, str] | None:
        return ~((rows >= 0) & (rows <= 1)), "logit takes values from 0 to 1: dequantise or scale them first"


@dataclass(frozen=True)
class Dequantise(FittedTransform):
    """``x -> x / levels``; the noise was added to the whole numbers before."""

    levels: int

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        log_abs_det: Rows = _module_of(rows).full_like(rows[:, 0], -rows.shape[1] * float(np.log(self.levels)))
        transformed: Rows = rows / self.levels
        return transformed, log_abs_det

    def inverse(self, rows: Rows) -> Rows:
        """Return whole numbers: the noise is cut off, and what the flow puts beyond the ends is brought to them."""
        xp = _module_of(rows)
        raw: Rows = xp.clip(xp.floor(rows * self.levels), 0, self.levels - 1)
        return raw

    def unrounded(self, rows: Rows) -> Rows:
        raw: Rows = rows * self.levels
        return raw

    def parameters(self) -> dict[str, Any]:
        return {"kind": "dequantise", "levels": self.levels}

    def misfits(self, rows: Rows) -> tuple[Any, str] | None:
        """``rows`` are the whole numbers, without noise."""
        bad = (rows != _module_of(rows).floor(rows)) | (rows < 0) | (rows >= self.levels)
        return bad, f"dequantise takes whole numbers from 0 to {self.levels - 1}: set its levels, or leave it out"


@dataclass(frozen=True, eq=False)
class OfColumns(FittedTransform):
    """``inner`` on some columns, the others as they are.

    Attributes:
        places: numbers of the columns, from 0.
    """

    inner: FittedTransform
    places: list[int]

    def __call__(self, rows: Rows) -> tuple[Rows, Rows]:
        transformed, log_abs_det = self.inner(self._taken(rows))
        return self._put(rows, transformed), log_abs_det

    def inverse(self, rows: Rows) -> Rows:
        return self._put(rows, self.inner.inverse(self._taken(rows)))

    def unrounded(self, rows: Rows) -> Rows:
        return self._put(rows, self.inner.unrounded(self._taken(rows)))

    def parameters(self) -> dict[str, Any]:
        return self.inner.parameters() | {"columns": self.places}

    def misfits(self, rows: Rows) -> tuple[Any, str] | None:
        found = self.inner.misfits(self._taken(rows))
        if found is None:
            return None
        bad = _module_of(rows).zeros_like(rows) != 0
        bad[:, self.places] = found[0]
        return bad, found[1]

    def _taken(self, rows: Rows) -> Rows:
        taken: Rows = rows[:, self.places]
        return taken

    def _put(self, rows: Rows, values: Rows) -> Rows:
        put: Rows = rows.copy() if isinstance(rows, np.ndarray) else rows.clone()
        put[:, self.places] = values
        return put


def restore_transforms(parameters: Iterable[dict[str, Any]]) -> tuple[FittedTransform, ...]:
    """Return the transforms whose ``parameters()`` these are.

    Raises:
        ValueError: a ``kind`` is not known.
    """
    return tuple(_restore(given) for given in parameters)


def _restore(given: dict[str, Any]) -> FittedTransform:
    if "columns" in given:
        inner = {name: value for name, value in given.items() if name != "columns"}
        return OfColumns(_restore(inner), given["columns"])
    match given["kind"]:
        case "arcsinh":
            return Arcsinh(given["scale"])
        case "standardise":
            return Standardise(np.asarray(given["mean"], np.float64), np.asarray(given["std"], np.float64))
        case "logit":
            return Logit(given["alpha"])
        case "dequantise":
            return Dequantise(given["levels"])
    raise ValueError(f"no transform is of the kind {given['kind']!r}: arcsinh, standardise, logit, dequantise")


def invert(transforms: Sequence[FittedTransform], rows: Rows) -> Rows:
    """Return ``rows`` [n, dim] of the flow's space in original units."""
    for transform in reversed(transforms):
        rows = transform.inverse(rows)
    return rows
