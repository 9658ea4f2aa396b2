"""How many rows to score at once."""

from __future__ import annotations

from symadj_core.flows.cnf import Flow
from symadj_core.flows.integrands.divergence import Exact

# Rows times columns of a piece of work; large enough to keep small flows busy.
_PIECE = 10_000


def piece_rows(flow: Flow, batch_rows: int) -> int:
    """How many rows to score at once.

    The exact trace takes as many times the memory of a row's graph as there are columns, where it isn't cheap, and an
    estimate as many as there are probes: a piece must not need more than training a batch of `batch_rows` does, save
    for flows so small that it does not matter. Those of images are not small: they keep channels of every pixel.
    """
    divergence = flow.stack()[0].settings.divergence
    products: int = getattr(divergence, "probes", 1)
    if isinstance(divergence, Exact) and not flow.has_cheap_trace:
        products = flow.dim
    return max(1, batch_rows // products, 0 if flow.moves_images else _PIECE // max(products, flow.dim))
