"""Negative log-likelihood of held-out rows, without gradient and a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symadj.workers.data import Batch, Part
from symadj_core.flows import Flow
from symadj_core.memory import freed_at_once

__all__ = ["DeviceRows", "HeldOut", "on_device"]


@dataclass(frozen=True)
class DeviceRows:
    """Rows as a flow takes them.

    Attributes:
        x: [n, dim] in the flow's dtype.
        index: [n] int64, the rows' numbers in the data set.
        context: [n, context dim] in the flow's dtype, or None.
    """

    x: Tensor
    index: Tensor
    context: Tensor | None

    def split(self, rows: int) -> Iterator[DeviceRows]:
        """Yield pieces of at most ``rows`` rows; of no rows none."""
        for first in range(0, len(self.x), rows):
            piece = slice(first, first + rows)
            yield DeviceRows(self.x[piece], self.index[piece], None if self.context is None else self.context[piece])


def on_device(rows: Part | Batch, flow: Flow, device: torch.device) -> DeviceRows:
    """Bring ``rows`` to ``device``."""
    dtype = next(flow.parameters()).dtype
    context = None if rows.context is None else torch.from_numpy(rows.context).to(device, dtype)
    return DeviceRows(torch.from_numpy(rows.rows).to(device, dtype), torch.from_numpy(rows.index).to(device), context)


@dataclass(frozen=True)
class HeldOut:
    """Rows of one rank, ready to be scored.

    Attributes:
        rows: all of them.
        piece: rows to compute at once.
        seed: of the probes, where the divergence is estimated. They depend on the row alone, so that a series of
            scores is of one quantity.
    """

    rows: DeviceRows
    piece: int
    seed: int

    @torch.no_grad()
    def nll(self, flow: Flow, before_piece: Callable[[], None]) -> tuple[Tensor, list[int]]:
        """Return the negative log-likelihood of each row [n] float64, in nats, and the nfe of each piece.

        Args:
            flow: whose likelihood.
            before_piece: called before every piece; ends the scoring by raising.

        Raises:
            SolverError: a row could not be carried to the base.
        """
        values, counts = [self.rows.x.new_zeros(0, dtype=torch.float64)], []
        with freed_at_once():
            for piece in self.rows.split(self.piece):
                before_piece()
                values.append(-flow(piece.x, seed=self.seed, sample_index=piece.index, context=piece.context).double())
                counts.append(flow.last_stats.nfe_forward)
        return torch.cat(values), counts
