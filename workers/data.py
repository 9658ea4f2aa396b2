"""Data sets: loading, splitting, transforming, and the order of batches."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from service.spec import BuiltinData, Data, ToyData
from workers.transforms import DataError, FittedTransform, fit_transforms

__all__ = ["BatchOrder", "DataError", "Part", "PreparedData", "Table", "load_table", "prepare"]

SMALLEST_PART = 2


@dataclass(frozen=True, eq=False)
class Table:
    """Raw rows [n, dim] float64 and the names of their columns."""

    columns: tuple[str, ...]
    rows: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Part:
    """The training, validation or test rows, transformed.

    Attributes:
        rows: [n, dim] float64, in the space that the flow models.
        log_abs_det: [n] float64, log |det| of the transforms' Jacobian at each row.
        index: [n] int64, the place of each row in the whole raw data set; names the row in any split.
    """

    rows: NDArray[np.float64]
    log_abs_det: NDArray[np.float64]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def head(self, rows: int) -> Part:
        """Return the first ``rows`` rows, or all where there are fewer."""
        return Part(self.rows[:rows], self.log_abs_det[:rows], self.index[:rows])

    def share(self, rank: int, ranks: int) -> Part:
        """Return every ``ranks``-th row from row ``rank`` on: shares are disjoint and cover the part."""
        return Part(self.rows[rank::ranks], self.log_abs_det[rank::ranks], self.index[rank::ranks])


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A data set ready to train on."""

    columns: tuple[str, ...]
    transforms: tuple[FittedTransform, ...]
    training: Part
    validation: Part
    test: Part

    @property
    def dim(self) -> int:
        return len(self.columns)


def load_table(data: Data) -> Table:
    """Load or draw the raw rows that ``data`` names.

    Raises:
        DataError: the file of a data set is missing or unreadable.
    """
    match data:
        case BuiltinData():
            return _load_builtin(data.name)
        case ToyData():
            return _draw_toy(data)


def prepare(data: Data, table: Table) -> PreparedData:
    """Split ``table`` and transform it.

    The rows are permuted by ``numpy.random.RandomState(split_seed)``, whose stream numpy keeps fixed for ever; the
    first rows are for training, the next for validation, the last for testing. Transforms are fitted on the
    training rows only.

    Raises:
        DataError: a value is not finite, a column is constant, there are too few rows, or the batch is larger than
            the training part.
    """
    _check_finite(table, "of the raw data")
    total = len(table.rows)
    held_out = data.validation_fraction + data.test_fraction
    # Rounded first: 1 - 0.1 - 0.1 is a little below 0.8 in floating point, and would lose a row.
    train_end = int(round(total * (1 - held_out), 6))
    validation_end = int(round(total * (1 - data.test_fraction), 6))
    sizes = {
        "training": train_end,
        "validation": validation_end - train_end,
        "test": total - validation_end,
    }
    for name, size in sizes.items():
        if size < SMALLEST_PART:
            raise DataError(
                f"{total} rows leave {size} for {name}, at least {SMALLEST_PART} are needed: give more rows or "
                "change data.validation_fraction and data.test_fraction"
            )
    if data.batch_size > train_end:
        raise DataError(
            f"data.batch_size {data.batch_size} is larger than the {train_end} training rows: "
            f"at most {train_end} is possible"
        )
    order = np.random.RandomState(data.split_seed).permutation(total)
    transforms = tuple(fit_transforms(data.transforms, table.rows[order[:train_end]], table.columns))

    def part(index: NDArray[np.int64]) -> Part:
        rows, log_abs_det = table.rows[index], np.zeros(len(index))
        for transform in transforms:
            rows, change = transform(rows)
            log_abs_det = log_abs_det + change
        _check_finite(Table(table.columns, rows), "after the transforms")
        return Part(rows, log_abs_det, index)

    return PreparedData(
        table.columns,
        transforms,
        part(order[:train_end]),
        part(order[train_end:validation_end]),
        part(order[validation_end:]),
    )


class BatchOrder:
    """Which training rows make up each batch: a pure function of (seed, step).

    An epoch is a permutation that depends on (seed, epoch) alone; batch ``b`` of it is rows ``b * size`` to
    ``(b + 1) * size`` of the permutation. The rows left over at its end are dropped, so that all batches have the
    same size. A resumed run and a run with another number of ranks see the same batches.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.batches_per_epoch = rows // batch_size
        if not self.batches_per_epoch:
            raise ValueError(f"a batch of {batch_size} needs as many rows, there are {rows}")
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, np.int64)

    def rows_of_step(self, step: int, rank: int = 0, ranks: int = 1) -> NDArray[np.int64]:
        """Return the training rows [batch_size / ranks] of ``rank`` in ``step``, counted from 0."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng((self._seed, epoch)).permutation(self._rows)
            self._epoch = epoch
        share = self._batch_size // ranks
        first = batch * self._batch_size + rank * share
        return self._permutation[first : first + share]


def _check_finite(table: Table, where: str) -> None:
    bad = np.argwhere(~np.isfinite(table.rows))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"row {row}, column {table.columns[column]!r} {where} is {table.rows[row, column]}, one of {len(bad)} "
            "values that are not finite: remove or repair these rows"
        )


def _load_builtin(name: str) -> Table:
    file = resources.files("workers") / "datasets" / name / "events.npz"
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            return Table(tuple(map(str, arrays["channels"])), arrays["events"].astype(np.float64))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"the built-in data set {name} cannot be read from {file}: {error}") from error


def _draw_toy(toy: ToyData) -> Table:
    rng = np.random.default_rng(toy.split_seed)
    match toy.name:
        case "eight_gaussians":
            angle = 2 * np.pi / 8 * rng.integers(8, size=toy.rows)
            centres = 2.0 * np.stack([np.cos(angle), np.sin(angle)], 1)
            rows = centres + 0.25 * rng.standard_normal((toy.rows, 2))
        case "moons":
            upper = rng.integers(2, size=toy.rows).astype(bool)
            angle = np.pi * rng.random(toy.rows)
            x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
            y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
            rows = np.stack([x, y], 1) + 0.1 * rng.standard_normal((toy.rows, 2))
    return Table(("x", "y"), rows)
