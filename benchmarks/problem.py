"""The training step that all implementations are asked for: the mean NLL of a stack of CNF blocks and its gradient.

Each block solves y' = f(t, y) from t = 0 to 1 by dopri5 with Hutchinson's divergence (one Rademacher probe), f a
concatsquash MLP with tanh, as in FFJORD. Everything is float32; weights, data and probes are the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["SIZES", "Problem", "Size"]

RTOL, ATOL = 1e-6, 1e-8
# Where steps are fixed instead: of Kutta's 3/8 rule, torchdiffeq's rk4.
FIXED_STEPS = 20


@dataclass(frozen=True)
class Size:
    """How large a problem is: D, hidden widths, blocks M, batch B."""

    dim: int
    hidden: tuple[int, ...]
    blocks: int
    batch: int


SIZES = {
    "large": Size(43, (430, 430), 1, 500),
    "small": Size(6, (60, 60, 60), 5, 1000),
}


@dataclass(frozen=True)
class Problem:
    """Weights, data and probes of one size.

    Attributes:
        layers: for every block its layers: weight [out, in], bias, gate, gate_bias, shift [out], where the layer is
            (W x + b) * sigmoid(gate t + gate_bias) + shift t.
        data: [B, D].
        probes: [M, B, D], of +1 and -1.
    """

    size: Size
    layers: list[list[dict[str, np.ndarray[Any, np.dtype[np.float32]]]]]
    data: np.ndarray[Any, np.dtype[np.float32]]
    probes: np.ndarray[Any, np.dtype[np.float32]]

    @staticmethod
    def of(size: Size) -> Problem:
        """Return the problem of a size, always the same; its probes are those that a symadj flow draws for seed 0."""
        import torch  # only here: a peer without torch is given the problem ready-made

        from symadj_core.flows.integrands.probes import ProbeKey, draw

        random = np.random.default_rng(0)

        def uniform(bound: float, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            return random.uniform(-bound, bound, shape).astype(np.float32)

        widths = [size.dim, *size.hidden, size.dim]
        layers = [
            [
                {
                    "weight": uniform(inputs**-0.5, outputs, inputs),
                    "bias": uniform(inputs**-0.5, outputs),
                    "gate": uniform(1, outputs),
                    "gate_bias": uniform(1, outputs),
                    "shift": uniform(1, outputs),
                }
                for inputs, outputs in pairwise(widths)
            ]
            for _ in range(size.blocks)
        ]
        data = random.standard_normal((size.batch, size.dim)).astype(np.float32)
        index = torch.arange(size.batch)
        probes = np.stack(
            [
                draw("rademacher", ProbeKey(0, 0, block), index, size.dim, probes=1, dtype=torch.float32)[0].numpy()
                for block in range(size.blocks)
            ]
        )
        return Problem(size, layers, data, probes)
