"""The order in which rows are seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BatchOrder", "share_of"]


def share_of(batch_size: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the first row of the share of ``rank`` within a batch, and the row behind its last.

    Raises:
        ValueError: the batch has no equal shares, so that rows would be lost.
    """
    size, left_over = divmod(batch_size, ranks)
    if left_over:
        raise ValueError(f"a batch of {batch_size} rows has no {ranks} equal shares")
    return rank * size, (rank + 1) * size


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
        first, end = share_of(self._batch_size, rank, ranks)
        return self._permutation[batch * self._batch_size :][first:end]
