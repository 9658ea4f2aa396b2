"""Batches of rows that are held in memory."""

from __future__ import annotations

from symadj.workers.data.order import BatchOrder
from symadj.workers.data.table import Batch, Part

__all__ = ["PartBatches"]


class PartBatches:
    """Batches of rows held in memory, in the order of :class:`BatchOrder`."""

    def __init__(self, part: Part, batch_size: int, seed: int) -> None:
        self._part = part
        self._order = BatchOrder(len(part), batch_size, seed)

    @property
    def batches_per_epoch(self) -> int:
        return self._order.batches_per_epoch

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        place = self._order.rows_of_step(step, rank, ranks)
        return self._part.take(place, epoch=step // self._order.batches_per_epoch)
