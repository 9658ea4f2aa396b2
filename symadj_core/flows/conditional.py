"""A batch of distributions: a conditional flow, given a context for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from symadj_core.flows.inputs import as_shape, check_context

if TYPE_CHECKING:
    from symadj_core.flows.cnf import Flow


class ConditionalFlow(Distribution):
    """The result of `flow.condition(context)` and, with contexts of width 0, of `flow.expand(batch_shape)`.

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
        check_context(context, flow.context_dim)
        super().__init__(context.shape[:-1], flow.event_shape, validate_args=False)
        self.flow, self.context = flow, context

    def log_prob(self, value: Tensor) -> Tensor:
        """[*sample, *batch, D], or what broadcasts to it, -> [*sample, *batch], nats.

        Raises:
            ValueError: the value does not end in D, or does not broadcast.
        """
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"expected [..., {self.flow.dim}], got {list(value.shape)}")
        try:
            shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(
                f"a value {list(value.shape)} does not broadcast to the batch {list(self.batch_shape)} of contexts"
            ) from None
        result: Tensor = self.flow(value.expand(*shape, -1), context=self.context)
        return result

    def expand(self, batch_shape: int | Sequence[int], _instance: Any = None) -> ConditionalFlow:
        """The same distributions as a batch of that shape, to which this one's broadcasts."""
        return ConditionalFlow(self.flow, self.context.expand(*as_shape(batch_shape), -1))

    def rsample(self, sample_shape: int | Sequence[int] = ()) -> Tensor:
        """Samples [*sample_shape, *batch, D], differentiable with respect to weights and context."""
        return self.flow.rsample((*as_shape(sample_shape), *self.batch_shape), self.context)

    def sample(self, sample_shape: int | Sequence[int] = ()) -> Tensor:
        """Samples [*sample_shape, *batch, D] from torch's generator, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def sample_and_log_prob(self, sample_shape: int | Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Samples [*sample_shape, *batch, D] and their log-likelihoods from one solve; differentiable."""
        return self.flow.sample_and_log_prob((*as_shape(sample_shape), *self.batch_shape), self.context)
