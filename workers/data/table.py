"""Raw rows, the parts they are split into, and what the flow sees of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from symadj.workers.data.errors import DataError
from symadj_core.noise import uniform
from symadj_core.transforms import FittedTransform, invert

__all__ = ["Batch", "Batches", "Part", "Pipeline", "PreparedData", "Source", "Table", "pieces"]

Rows = NDArray[np.float64]

_PIECE_VALUES = 1 << 20
_SAMPLE_ROWS, _SAMPLE_COLUMNS = 16, 16


@dataclass(frozen=True)
class Source:
    """A file that rows of a table come from.

    Attributes:
        file: its name as the spec has it.
        first_row: the table's row that it begins with.
        notes: a short sentence for each thing that was applied or left out while reading it.
        stored: the type in the file of each column and, behind them, of the context's; None: that of the rows.
    """

    file: str
    first_row: int = 0
    notes: tuple[str, ...] = ()
    stored: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """A raw data set.

    Attributes:
        columns: names of what the flow models.
        rows: [n, dim] of any real dtype; images are flattened.
        context_columns: names of what the flow is conditioned on.
        context: [n, context dim] of any real dtype, or None.
        shape: (channels, height, width) of the image in a row, or None.
        validation_from: the row with which the validation rows of a given split begin; None: it is not given.
        test_from: likewise for the test rows, which reach to the end.
        transforms: what the data set's own preprocessing ends with, to be applied before the spec's transforms.
        sources: the files that the rows come from.
    """

    columns: tuple[str, ...]
    rows: NDArray[Any]
    context_columns: tuple[str, ...] = ()
    context: NDArray[Any] | None = None
    shape: tuple[int, int, int] | None = None
    validation_from: int | None = None
    test_from: int | None = None
    transforms: tuple[FittedTransform, ...] = ()
    sources: tuple[Source, ...] = ()

    def place(self, row: int) -> tuple[str | None, int]:
        """Return the file that ``row`` comes from, if it comes from one, and its number there, from 0."""
        for source in reversed(self.sources):
            if row >= source.first_row:
                return source.file, row - source.first_row
        return None, row


@dataclass(frozen=True, eq=False)
class Pipeline:
    """The way from raw rows to the space that the flow models.

    Attributes:
        transforms: applied one after the other.
        noise_seed: of dequantisation's noise; None where the rows are not dequantised.
    """

    transforms: tuple[FittedTransform, ...]
    noise_seed: int | None

    def noisy(self, raw: NDArray[Any], index: NDArray[np.int64], epoch: int) -> Rows:
        """Return ``raw`` [n, dim] in float64, with dequantisation's noise."""
        rows = raw.astype(np.float64)
        if self.noise_seed is not None:
            rows += uniform(self.noise_seed, epoch, index, raw.shape[1])
        return rows

    def __call__(self, raw: NDArray[Any], index: NDArray[np.int64], epoch: int = 0) -> tuple[Rows, Rows]:
        """Return the transformed rows [n, dim], and log |det| of the Jacobian [n] at each."""
        rows, log_abs_det = self.noisy(raw, index, epoch), np.zeros(len(raw))
        for transform in self.transforms:
            rows, change = transform(rows)
            log_abs_det = log_abs_det + change
        return rows, log_abs_det


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one rank in one step.

    Attributes:
        rows: [n, dim] float64, in the space that the flow models.
        index: [n] int64, the rows' numbers in the whole raw data set.
        context: [n, context dim] float64, standardised, or None.
    """

    rows: Rows
    index: NDArray[np.int64]
    context: Rows | None


class Batches(Protocol):
    """The batches of a run: a pure function of (seed, step), whatever was asked for before."""

    @property
    def batches_per_epoch(self) -> int:
        """How many whole batches the training rows make."""

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """Return the share of ``rank`` [batch_size / ranks] of the batch of ``step``, counted from 0.

        The shares of all ranks, one after the other, are the batch that a single rank would get.

        Raises:
            ValueError: ``ranks`` does not divide the batch.
            DataError: rows that are streamed can't be read any more, or were changed.
        """


@dataclass(frozen=True, eq=False)
class Part:
    """The training, validation or test rows. They are held raw, and transformed when they are asked for.

    Attributes:
        pipeline: what transforms them.
        raw: [n, dim] of any real dtype.
        index: [n] int64, the place of each row in the whole raw data set; names the row in any split.
        context: [n, context dim] float64, standardised, or None.
    """

    pipeline: Pipeline
    raw: NDArray[Any]
    index: NDArray[np.int64]
    context: Rows | None

    def __len__(self) -> int:
        return len(self.raw)

    @cached_property
    def _transformed(self) -> tuple[Rows, Rows]:
        rows, log_abs_det = np.empty(self.raw.shape), np.empty(len(self.raw))
        for piece in pieces(*self.raw.shape):
            rows[piece], log_abs_det[piece] = self.pipeline(self.raw[piece], self.index[piece])
        return rows, log_abs_det

    @property
    def rows(self) -> Rows:
        """All rows [n, dim] float64 in the space that the flow models; dequantised with the noise of epoch 0."""
        return self._transformed[0]

    @property
    def log_abs_det(self) -> Rows:
        """log |det| [n] float64 of the transforms' Jacobian at each of ``rows``."""
        return self._transformed[1]

    def take(self, place: NDArray[np.int64] | slice, epoch: int) -> Batch:
        """Return the rows at ``place`` within this part, dequantised with the noise of ``epoch``."""
        index = self.index[place]
        rows, _ = self.pipeline(self.raw[place], index, epoch)
        return Batch(rows, index, None if self.context is None else self.context[place])

    def head(self, rows: int) -> Part:
        """Return the first ``rows`` rows, or all where there are fewer."""
        return self._at(slice(rows))

    def share(self, rank: int, ranks: int) -> Part:
        """Return every ``ranks``-th row from row ``rank`` on: shares are disjoint and cover the part."""
        return self._at(slice(rank, None, ranks))

    def _at(self, place: slice) -> Part:
        context = None if self.context is None else self.context[place]
        return Part(self.pipeline, self.raw[place], self.index[place], context)


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set ready to train on.

    Attributes:
        columns: names of the columns of the flow's space.
        transforms: between raw rows and the flow's space.
        training, validation, test: the parts; of a stream, ``training`` is a sample that fits into memory.
        training_rows: how many rows there are to train on.
        batches: opens the batches of training, given their size and a seed.
        context_columns: names of what the flow is conditioned on.
        context_transform: what standardised the context, or None.
        shape: (channels, height, width) of the image in a row, or None.
        levels: number of values of a dequantised column, or None.
    """

    columns: tuple[str, ...]
    transforms: tuple[FittedTransform, ...]
    training: Part
    validation: Part
    test: Part
    training_rows: int
    batches: Callable[[int, int], Batches]
    context_columns: tuple[str, ...] = ()
    context_transform: FittedTransform | None = None
    shape: tuple[int, int, int] | None = None
    levels: int | None = None

    @property
    def dim(self) -> int:
        return len(self.columns)

    @property
    def context_dim(self) -> int:
        return len(self.context_columns)

    def original_units(self, rows: Rows) -> Rows:
        """Return ``rows`` [n, dim] of the flow's space as raw rows; whole numbers where they were dequantised."""
        return invert(self.transforms, rows)

    def bits_per_dim(self, nll_original_units: float) -> float | None:
        """Return an upper bound of the discrete NLL, in bits a dimension (Theis et al. 2016, section 3.1).

        Args:
            nll_original_units: nats a row, of rows whose values are whole numbers plus noise in [0, 1).

        Returns:
            None where the data are not dequantised: a density has no bits.
        """
        return None if self.levels is None else nll_original_units / (self.dim * math.log(2))

    def sample(self) -> dict[str, Any]:
        """Return a little of the data as JSON values, by which they are known again: see ``check_same``."""
        return {
            "columns": list(self.columns),
            "training_rows": self.training_rows,
            "rows": self.validation.raw[:_SAMPLE_ROWS, :_SAMPLE_COLUMNS].astype(float).tolist(),
        }

    def check_same(self, sample: dict[str, Any], of: str) -> None:
        """Return if ``sample`` was taken of these data: most changes of a file show in it, not every one.

        Args:
            sample: what ``sample`` returned then.
            of: what was trained on those, for the message.

        Raises:
            DataError: it was not.
        """
        ours = self.sample()
        for name, what in (("columns", "columns"), ("training_rows", "number of training rows")):
            if ours[name] != sample[name]:
                raise DataError(
                    f"the data have changed since {of}: their {what} was {sample[name]!r} and is {ours[name]!r} now. "
                    "Put the old data back, or begin a new training"
                )
        # Another processor may round a derived column otherwise.
        if not np.allclose(ours["rows"], sample["rows"], rtol=1e-6, atol=1e-9):
            raise DataError(
                f"the data have changed since {of}: the first validation rows have other values. "
                "Put the old data back, or begin a new training"
            )

    def config(self) -> dict[str, Any]:
        """Return their part of ``config.json``, by which the flow is used on other rows, as JSON values."""
        context = self.context_transform
        return {
            "columns": list(self.columns),
            "transforms": [transform.parameters() for transform in self.transforms],
            "context_columns": list(self.context_columns),
            "context_transform": None if context is None else context.parameters(),
            "shape": None if self.shape is None else list(self.shape),
            "levels": self.levels,
        }


def pieces(rows: int, dim: int) -> Iterator[slice]:
    """Return slices that cover ``rows`` rows of ``dim`` values, of about a million values each."""
    step = max(1, _PIECE_VALUES // max(1, dim))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))
