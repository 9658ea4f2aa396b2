"""Counter-based random probes for stochastic trace estimates.

A probe's values are a pure function of (seed, step, block, probe number, sample index, dimension): no generator has a
state. A stage that is replayed, a run that is resumed and a run on another number of workers therefore see the same
probes, on any device. The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), in int64 arithmetic that wraps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Distribution = Literal["rademacher", "gaussian"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 32


@dataclass(frozen=True)
class ProbeKey:
    """What the probes of one solve depend on beside the samples.

    Attributes:
        seed: seed of the job.
        step: number of the training step.
        block: position of the block in the flow.
    """

    seed: int
    step: int = 0
    block: int = 0


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


def _mix_int(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Unsigned right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(_GOLDEN)
    x = (x ^ _shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift(x, 27)) * _signed(_SECOND)
    return x ^ _shift(x, 31)


def check_distribution(name: str) -> None:
    """Refuse names that are not in `Distribution`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in get_args(Distribution):
        raise ValueError(f"unknown probe distribution {name!r}: 'rademacher' or 'gaussian'")


def draw(
    distribution: Distribution,
    key: ProbeKey,
    sample_index: Tensor,
    dim: int,
    *,
    probes: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent probe vectors with zero mean and unit covariance.

    Args:
        distribution: "rademacher" (entries +1 or -1) or "gaussian".
        key: seed, step and block.
        sample_index: [B] int64, the samples' own numbers in the data set, on the device of the result.
        dim: D.
        probes: K.
        dtype: floating dtype of the result.

    Returns:
        [K, B, D].

    Raises:
        ValueError: unknown distribution.
    """
    check_distribution(distribution)
    device = sample_index.device
    per_sample = math.ceil(dim / _WORD) if distribution == "rademacher" else dim
    mixed = 0
    for part in (key.seed, key.step, key.block):
        mixed = _mix_int(mixed ^ (part & _MASK))
    # Made on the device: a copy from the host would wait for it.
    keys = _mix(torch.arange(probes, dtype=torch.int64, device=device) ^ _signed(mixed))
    # Hashing the sample's number first keeps (sample, word) pairs apart whatever the numbers are.
    samples = _mix(sample_index.to(torch.int64) ^ keys[:, None])
    words = _mix(samples[:, :, None] + torch.arange(per_sample, dtype=torch.int64, device=device))
    if distribution == "rademacher":
        bits = (words[..., None] >> torch.arange(_WORD, dtype=torch.int64, device=device)) & 1
        return bits.flatten(2)[..., :dim].to(dtype).mul_(2).sub_(1)
    return _box_muller(words, dtype)


def _box_muller(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard normal values from the two halves of each word; the open unit interval has 2^23 points."""
    scale = 2.0**-23
    high = (_shift(words, 41).to(dtype) + 0.5) * scale
    low = ((_shift(words, 9) & (2**23 - 1)).to(dtype) + 0.5) * scale
    return (-2.0 * high.log()).sqrt() * (2.0 * math.pi * low).cos()
