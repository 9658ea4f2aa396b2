"""What one training step yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Result"]


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
