"""What one training step yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["HEAD", "Result"]

# Of the columns that `Result.cells` fills.
HEAD = ("nfe fwd", "nfe bwd", "gradient differs", "loss")


@dataclass(frozen=True)
class Result:
    """Loss in nats, the gradient of all parameters in one vector, and uses of the field (None: not told).

    ``peak_bytes`` is set by a peer that knows its own peak better than the system does.
    """

    loss: float
    gradient: np.ndarray[Any, np.dtype[np.float32]]
    nfe_forward: int | None
    nfe_backward: int | None
    peak_bytes: int | None = None

    def cells(self, reference: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[str, ...]:
        """Return what a table shows of it, by ``HEAD``; the gradient's distance is relative to the reference's norm."""
        ours, theirs = self.gradient.astype(np.float64), reference.astype(np.float64)
        uses = ("-" if count is None else str(count) for count in (self.nfe_forward, self.nfe_backward))
        return (*uses, f"{np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.1e}", f"{self.loss:.5f}")
