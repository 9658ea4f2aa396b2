"""Uniform noise that is a pure function of where it is used, for dequantisation.

No generator has a state: a resumed run, another batch size and another number of workers give a row the same noise
in the same epoch. The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), in uint64 arithmetic that wraps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["row_number", "uniform"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_PURPOSE = np.uint64(0x64657175616E7469)  # keeps this stream apart from others of the same seed

Words = NDArray[np.uint64]


def uniform(seed: int, epoch: int, index: NDArray[np.int64], dim: int) -> NDArray[np.float64]:
    """Return noise [n, dim] float64 in [0, 1), multiples of 2^-32, for the rows numbered ``index`` [n]."""
    key = _mix(_mix(np.array([seed], np.uint64) ^ _PURPOSE) + np.uint64(epoch))
    by_row = _mix(key + index.astype(np.uint64))
    words = _mix(by_row[:, None] + np.arange(dim, dtype=np.uint64) * _GOLDEN)
    # 32 bits, so that a whole number plus noise is exact, and never rounds up to the next whole number.
    return (words >> np.uint64(32)).astype(np.float64) * 2.0**-32


def row_number(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a number [n] for each of ``rows`` [n, dim] that follows from its values alone, for rows without one."""
    words = np.ascontiguousarray(rows + 0.0).view(np.uint64)  # -0.0 is 0.0
    mixed = _mix(words + np.arange(rows.shape[1], dtype=np.uint64) * _GOLDEN)
    numbers: NDArray[np.int64] = np.bitwise_xor.reduce(mixed, axis=1).view(np.int64)
    return numbers


def _mix(words: Words) -> Words:
    words = words + _GOLDEN
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))
