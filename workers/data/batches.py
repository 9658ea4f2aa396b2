"""Where training takes its batches from."""

from __future__ import annotations

from typing import Protocol

from workers.data.order import BatchOrder
from workers.data.table import Batch, Part

__all__ = ["Batches", "PartBatches"]


class Batches(Protocol):
    """The batches of a run: a pure function of (seed, step), whatever was asked for before."""

    @property
    def batches_per_epoch(self) -> int:
        """How many whole batches the training rows make."""

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """Return the share of ``rank`` [batch_size / ranks] of the batch of ``step``, counted from 0.

        The shares of all ranks, one after the other, are the batch that a single rank would get.
        """


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
