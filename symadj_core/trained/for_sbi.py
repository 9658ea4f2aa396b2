"""A conditional trained flow as a density estimator of sbi, which must be installed: `TrainedFlow.as_sbi` makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sbi.neural_nets.estimators import ConditionalDensityEstimator
from torch import Tensor

if TYPE_CHECKING:
    from symadj_core.trained.flow import TrainedFlow

__all__ = ["FlowEstimator"]


class FlowEstimator(ConditionalDensityEstimator):  # type: ignore[misc]
    """The flow by sbi's interface: parameters theta are the flow's columns, observations x its context.

    Shapes are sbi's: inputs [sample, batch, *event] or [batch, *event], conditions [batch, C], both in the data's
    units. Samples have the dtype of the condition, float32 as a rule in sbi.

    Args:
        flow: with a context, not conditioned on any.

    Raises:
        ValueError: the flow takes no context.
    """

    def __init__(self, flow: TrainedFlow) -> None:
        if not flow.context_columns:
            raise ValueError("an estimator of sbi is conditional, and this flow was trained without context columns")
        super().__init__(flow.flow, flow.event_shape, torch.Size([len(flow.context_columns)]))
        self.flow = flow

    def log_prob(self, input: Tensor, condition: Tensor) -> Tensor:
        """[sample, batch], nats; sample is 1 where the inputs have none."""
        if input.dim() <= len(self.flow.event_shape) + 1:
            input = input[None]
        return self.flow.log_prob(input, context=condition)

    def loss(self, input: Tensor, condition: Tensor) -> Tensor:
        """-log_prob [batch] of inputs [batch, *event]; `flow.flow.requires_grad_()` makes the weights parameters."""
        return -self.flow.log_prob(input, context=condition)

    def sample(self, sample_shape: torch.Size, condition: Tensor) -> Tensor:
        """[*sample_shape, batch, *event]."""
        return self.flow.sample(sample_shape, condition).to(condition.dtype)
