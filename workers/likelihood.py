"""Negative log-likelihood of held-out rows, without gradient and a piece at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from symadj_core.flows import Flow
from workers.data import Part

__all__ = ["HeldOut", "piece_rows", "rows_on_device"]

# Rows times columns of a piece of work; large enough to keep small flows busy.
_PIECE = 10_000


def rows_on_device(part: Part, flow: Flow, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the rows [n, dim] in the flow's dtype and their numbers [n] int64, both on ``device``."""
    dtype = next(flow.parameters()).dtype
    return torch.from_numpy(part.rows).to(device, dtype), torch.from_numpy(part.index).to(device)


def piece_rows(batch_rows: int, dim: int) -> int:
    """Return how many rows to compute at once with the exact trace.

    The trace takes ``dim`` times the memory of a row's graph: a piece must not need more than training a batch of
    ``batch_rows`` does, save for flows so small that it does not matter.
    """
    return max(1, batch_rows // dim, _PIECE // dim)


@dataclass(frozen=True)
class HeldOut:
    """Rows of one rank, ready to be scored.

    Attributes:
        rows: [n, dim] in the flow's dtype.
        index: [n] int64, the rows' numbers in the data set.
        piece: rows to compute at once.
        seed: of the probes, where the divergence is estimated. They depend on the row alone, so that a series of
            scores is of one quantity.
    """

    rows: Tensor
    index: Tensor
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
        values, counts = [self.rows.new_zeros(0, dtype=torch.float64)], []
        for x, i in zip(torch.split(self.rows, self.piece), torch.split(self.index, self.piece), strict=True):
            before_piece()
            if len(x):
                values.append(-flow(x, seed=self.seed, sample_index=i).double())
                counts.append(flow.last_stats.nfe_forward)
        return torch.cat(values), counts
