"""In which precision a solve keeps its state, and in which the field is given state and time.

A sum of small increments needs more digits than any of them: near 1, a bfloat16 state loses every increment below
0.004, and a solve of hundreds of steps would stay where it began. Half precision is therefore the field's alone;
states, errors and quadratures are kept in float32. Times are floats of the host; a field whose state is too coarse to
tell them apart is given them in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}

# Times rounded by less than this part of the solve's span are good enough, whatever the state's precision.
_FINE = 1e-5


def widened(x: Tensor) -> Tensor:
    """x in the precision in which a solve keeps it: half precision in float32, all else as it is."""
    return x.to(Precision(x.dtype).kept)


def real_dtype(y: Tensor) -> torch.dtype:
    """The dtype of times and weights beside y: y's own, or its real part's."""
    return torch.empty((), dtype=y.dtype).real.dtype if y.is_complex() else y.dtype


@dataclass(frozen=True)
class Precision:
    """The dtypes in which a field is used.

    Attributes:
        state: of the state that the field is given and, by default, of its time.
        fine_time: its state's dtype can't tell the solve's times apart, so that they are given in float64.
    """

    state: torch.dtype
    fine_time: bool = False

    @cached_property
    def epsilon(self) -> float:
        """The distance of 1 from the next number that the field can be given."""
        return torch.finfo(self.state).eps

    @cached_property
    def kept(self) -> torch.dtype:
        """The dtype in which the solve keeps the state."""
        return _WIDER.get(self.state, self.state)

    @cached_property
    def time(self) -> torch.dtype:
        """The dtype of the times that the field is given."""
        return torch.float64 if self.fine_time else real_dtype(torch.empty((), dtype=self.state))


def precision_of(y0: Tensor, start: float, end: float) -> Precision:
    """How a field is used in a solve of `y0` over [start, end]."""
    plain = Precision(y0.dtype)
    rounding = time_rounding(plain.time, start, end)
    return Precision(y0.dtype, fine_time=rounding > max(_FINE, 2.0 * plain.epsilon))


def time_rounding(dtype: torch.dtype, start: float, end: float) -> float:
    """By how much times near the ends are rounded in that dtype, as a part of the span."""
    return 0.5 * time_spacing(dtype, max(abs(start), abs(end))) / abs(end - start)


def time_spacing(dtype: torch.dtype, time: float) -> float:
    """The distance of a time from the next one in that dtype."""
    _mantissa, exponent = math.frexp(time)
    return float(0.5 * torch.finfo(dtype).eps * 2.0**exponent)
