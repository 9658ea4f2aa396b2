"""The Kullback-Leibler divergence from or to a trained flow, which has no closed form: an estimate from draws."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from symadj_core.trained.flow import TrainedFlow

__all__ = ["KLEstimate", "estimate_kl"]

DRAWS = 1000


class KLEstimate(NamedTuple):
    """KL(p || q) in nats and its standard error, both [*batch]."""

    value: Tensor
    stderr: Tensor


def estimate_kl(p: Distribution, q: Distribution, draws: int = DRAWS) -> KLEstimate:
    """KL(p || q), the mean of log p(x) - log q(x) over draws x from p, by torch's generator.

    The mean is unbiased, and so is its gradient where p has `rsample`. It may be below 0, by as much as its error.

    Args:
        p, q: of which one is usually a `TrainedFlow`; batches broadcast.
        draws: n, at least 2; the error falls as n^(-1/2).

    Raises:
        ValueError: fewer draws, or events of different shapes.
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, not {draws}: one has no standard error")
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"the events of p are {list(p.event_shape)} and those of q {list(q.event_shape)}: they must be of one "
            "shape; Independent(q, 1) makes an event of the last dimension of a batch"
        )
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)  # type: ignore[no-untyped-call]
    p = p if p.batch_shape == shape else p.expand(shape)
    x = p.rsample((draws,)) if p.has_rsample else p.sample((draws,))
    ratio = p.log_prob(x) - q.log_prob(x)
    return KLEstimate(ratio.mean(0), ratio.std(0) / draws**0.5)


def _estimated(p: Distribution, q: Distribution) -> Tensor:
    warnings.warn(
        f"the KL divergence of a trained flow has no closed form: this is an estimate from {DRAWS} draws; "
        "symadj_core.trained.estimate_kl(p, q, draws=...) gives its standard error, too, without this warning",
        stacklevel=3,
    )
    return estimate_kl(p, q).value


for _pair in ((TrainedFlow, Distribution), (Distribution, TrainedFlow), (TrainedFlow, TrainedFlow)):
    register_kl(*_pair)(_estimated)  # type: ignore[no-untyped-call]
