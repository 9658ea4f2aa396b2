"""A conditional flow, given contexts: a distribution for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

if TYPE_CHECKING:
    from symadj_core.flows.cnf import Flow


class ConditionalFlow(Distribution):
    """What `flow.condition(context)` returns.

    Args:
        flow: a flow whose fields take a context of width C.
        context: [*batch, C]; gradients flow to it.

    Raises:
        ValueError: the flow takes no context, or one of another width.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's declaration
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: Flow, context: Tensor) -> None:
        if flow.context_dim == 0:
            raise ValueError("this flow takes no context: make its fields with a context_dim")
        if context.shape[-1] != flow.context_dim:
            raise ValueError(f"expected a context [..., {flow.context_dim}], got {list(context.shape)}")
        super().__init__(context.shape[:-1], flow.event_shape, validate_args=False)
        self.flow, self.context = flow, context

    def log_prob(self, value: Tensor) -> Tensor:
        """[*sample, *batch, D] -> [*sample, *batch], nats."""
        result: Tensor = self.flow(value, context=self.context)
        return result

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples [*sample_shape, *batch, D], differentiable with respect to weights and context."""
        return self.flow.rsample((*sample_shape, *self.batch_shape), self.context)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples [*sample_shape, *batch, D] from torch's generator, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Samples [*sample_shape, *batch, D] and their log-likelihoods from one solve; differentiable."""
        return self.flow.sample_and_log_prob((*sample_shape, *self.batch_shape), self.context)
