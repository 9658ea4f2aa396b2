"""Gradients with respect to the requested times, collected slope by slope during the symplectic sweep.

A step over [t_n, t_{n+1}], h = t_{n+1} - t_n, depends on its ends through the times of its stages, t_n + c_i h, through
h itself, and through the positions theta_m = (t_m - t_n) / h of the outputs that it interpolates. With kappa_i the
cotangent of slope k_i, the second part is sum_i <k_i, kappa_i> / h, since kappa_i carries the factor h.
"""

from __future__ import annotations

import torch
from torch import Tensor

from symadj_core.gradients.base import Cotangents
from symadj_core.solvers.system import Slope
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import SolverStep


class TimeGradient:
    """dL/dt, entry by entry.

    Args:
        t: the requested times, [T]; gives shape, dtype and device.
    """

    def __init__(self, t: Tensor) -> None:
        self._t = t
        self._entries: list[Tensor | None] = [None] * len(t)

    @staticmethod
    def concerns(record: SolverStep | None) -> bool:
        """Whether the step depends on any entry of t."""
        return record is not None and (
            record.start_tie is not None or record.end_tie is not None or bool(record.outputs)
        )

    def add(self, index: int | None, value: Tensor) -> None:
        """Add to entry `index`; a point that is tied to no entry is a constant."""
        if index is not None:
            entry = self._entries[index]
            self._entries[index] = value if entry is None else entry + value

    def add_stage_time(self, record: SolverStep, c: float, value: Tensor | None) -> None:
        """The part through the time of a stage, `value` = (df/dt)^T kappa."""
        if value is not None:
            self.add(record.start_tie, (1.0 - c) * value)
            self.add(record.end_tie, c * value)

    def add_slope(
        self,
        record: SolverStep,
        tableau: ButcherTableau,
        slot: int,
        slope: Slope,
        kappa: Tensor | None,
        rate: Tensor | None,
        cotangents: Cotangents,
    ) -> None:
        """The parts through h and through the positions of the outputs.

        Args:
            record, tableau: the step.
            slot: which of its slopes; `tableau.stages` is the end slot.
            slope: its value.
            kappa, rate: the cotangents that this step gives it; None is zero.
            cotangents: those of the outputs.
        """
        length = _pairing(slope, kappa, rate)
        if length is not None:
            length = length / record.length
            self.add(record.end_tie, length)
            self.add(record.start_tie, -length)
        for index, theta in record.outputs:
            weight = tableau.dense_slopes(theta)[slot]
            moved = _pairing(slope, cotangents.state(index), cotangents.quadrature(index))
            if weight == 0.0 or moved is None:
                continue
            # d theta / d t_m = 1/h, and the factor h of the interpolant's increment cancels it.
            moved = weight * moved
            self.add(index, moved)
            self.add(record.start_tie, (theta - 1.0) * moved)
            self.add(record.end_tie, -theta * moved)

    def gradient(self) -> Tensor:
        """dL/dt, [T], made without a read of the device."""
        zero = self._t.new_zeros(())
        return torch.stack([zero if x is None else x.to(self._t) for x in self._entries])


def _pairing(slope: Slope, state: Tensor | None, quadrature: Tensor | None) -> Tensor | None:
    """Re <slope, cotangent>, 0-dim; None if it is zero by structure."""
    total: Tensor | None = None
    for value, cotangent in ((slope.state, state), (slope.quadrature, quadrature)):
        if value is not None and cotangent is not None:
            part = (cotangent.conj() * value).real.sum() if value.is_complex() else (cotangent * value).sum()
            total = part if total is None else total + part
    return total
