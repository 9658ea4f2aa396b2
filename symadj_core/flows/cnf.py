"""Continuous normalizing flows: stacked blocks, each with its own field, solver and gradient.

Data x is the state at t = 0, the base sample z the state at the end time of the last block:

    log p(x) = log N(z; 0, I) + sum over blocks of the integral of div f dt

(instantaneous change of variables, Chen et al., NeurIPS 2018). The log-determinant is a quadrature of the solve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from symadj_core.flows.block import Block, Integrals
from symadj_core.flows.conditional import ConditionalFlow
from symadj_core.flows.inputs import Inputs, as_shape, flattened
from symadj_core.flows.integrands.divergence import DIVERGENCES, Divergence
from symadj_core.flows.integrands.probes import ProbeKey
from symadj_core.flows.trajectories import trajectories
from symadj_core.gradients import GRADIENTS, GradientMethod
from symadj_core.solvers.controller import AdaptiveController, Controller
from symadj_core.solvers.problem import Stats
from symadj_core.solvers.tableaus import TABLEAUS, ButcherTableau


class Flow(nn.Module, Distribution):
    """A stack of blocks over a standard normal base: a module and a `torch.distributions.Distribution`.

    `flow(x, seed=..., step=..., sample_index=...)` is the log-likelihood, so that DDP(flow)(x, ...) trains with every
    gradient method. `log_prob`, `sample`, `rsample` and `sample_and_log_prob` are as in torch.distributions; of a
    conditional flow, whose fields have a `context_dim` C > 0, they take the context too, and `condition(context)` is
    the distribution.

    A likelihood without a `seed` is exact where the blocks' divergence is. Where it is estimated, a flow in train mode
    draws new probes at every call; in eval mode the probes are fixed, and the same for every sample: log p(x) is then a
    smooth function of x, the same at every call, in any batch and any order. Its error, which does not average out
    over samples, is gone with `with_settings(divergence="exact")`, at D times the cost of a use of the field.

    Args:
        blocks: a block, or several, applied in this order from data to base; fields with a context all take the same.
        dim: D.

    Attributes:
        context_dim: C; 0 for a flow without context.
        last_stats: counts of the last solve through all blocks, summed; nfe_backward is there after backward.

    Raises:
        TypeError: something that is not a block.
        ValueError: no blocks, contexts of several widths, or a block that does not fit D dimensions.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's declaration
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, blocks: Block | Sequence[Block], dim: int) -> None:
        nn.Module.__init__(self)
        Distribution.__init__(self, batch_shape=torch.Size(), event_shape=torch.Size([dim]), validate_args=False)
        blocks = list(blocks) if isinstance(blocks, Iterable) else [blocks]
        if not blocks:
            raise ValueError("a flow needs at least one block")
        for block in blocks:
            if not isinstance(block, Block):
                raise TypeError(f"a flow is made of blocks, not of {type(block).__name__}: Flow([Block(field)], dim)")
        widths = sorted({int(getattr(block.field, "context_dim", 0)) for block in blocks})
        if len(widths) > 1:
            raise ValueError(f"the fields of a flow must have one context_dim, not {widths}")
        for block in blocks:
            block.check(dim)
        self.blocks = nn.ModuleList(blocks)
        self.dim, self.context_dim = dim, widths[0]
        self._stats: list[Stats] = []

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    @property
    def last_stats(self) -> Stats:
        return reduce(add, self._stats, Stats())

    @property
    def block_stats(self) -> list[Stats]:
        """Counts of the last solve through each block, from data to base."""
        return [*self._stats]

    @property
    def knows_trace(self) -> bool:
        """Whether the exact divergence has a closed form in every block."""
        return all(block.knows_trace for block in self.stack())

    @property
    def has_cheap_trace(self) -> bool:
        """Whether the exact divergence costs no more than an estimate, in time and in memory."""
        return all(block.has_cheap_trace for block in self.stack())

    @property
    def moves_images(self) -> bool:
        """Whether a block's field moves images, of which a state keeps channels of every pixel."""
        return any(getattr(block.field, "shape", None) is not None for block in self.stack())

    def with_settings(
        self,
        *,
        divergence: str | Divergence | None = None,
        solver: str | ButcherTableau | None = None,
        controller: Controller | None = None,
        gradient: str | GradientMethod | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        full_precision: bool = False,
    ) -> Flow:
        """A flow with this one's weights and other solver settings; a setting that is not given stays.

        Args:
            divergence, solver, controller, gradient: objects or names, as for `Block`.
            rtol, atol: tolerances in place of the controller's.
            full_precision: leave out the blocks' field_dtype.

        Raises:
            ValueError: rtol or atol with fixed steps, or an unknown name.
        """
        changes: dict[str, Any] = {"field_dtype": None} if full_precision else {}
        if divergence is not None:
            changes["divergence"] = DIVERGENCES.make(divergence)
        if solver is not None:
            changes["solver"] = TABLEAUS.find(solver)
        if gradient is not None:
            changes["gradient"] = GRADIENTS.make(gradient)
        if controller is not None:
            changes["controller"] = controller
        tolerances: dict[str, Any] = {k: v for k, v in (("rtol", rtol), ("atol", atol)) if v is not None}
        twins = []
        for block in self.stack():
            settings = replace(block.settings, **changes)
            if tolerances:
                if not isinstance(settings.controller, AdaptiveController):
                    raise ValueError("rtol and atol need an adaptive controller")
                settings = replace(settings, controller=replace(settings.controller, **tolerances))
            twins.append(block.with_settings(settings))
        flow = Flow(twins, self.dim)
        # By `train()` the fields, which are shared, would be switched as well.
        flow.training = flow.blocks.training = self.training
        return flow

    def set_gradient(self, gradient: str | GradientMethod) -> None:
        """Differentiate this flow's next solves by another gradient method or one of that name.

        Raises:
            ValueError: an unknown name.
        """
        for block in self.stack():
            block.settings = replace(block.settings, gradient=GRADIENTS.make(gradient))

    def stack(self) -> list[Block]:
        """The blocks, from data to base."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        step: int = 0,
        sample_index: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Log-likelihood in nats.

        Args:
            x: [..., D], floating.
            seed: of the probes; None draws one from torch's CPU generator in train mode, and is 0 in eval mode.
            step: training step, another part of the probes' key.
            sample_index: [...] int64, the samples' numbers in their data set, each with probes of its own. None counts
                them in the batch or, in eval mode without a seed, gives all the same probes.
            context: [..., C] or anything that broadcasts to it, for a conditional flow; gradients flow to it.

        Returns:
            [...], of x's dtype.

        Raises:
            ValueError: x does not end in D, the context not in C, or it does not broadcast.
            TypeError: x is not a floating tensor, or not of the dtype or on the device of the weights.
            SolverError: a block could not be solved.
        """
        log_prob, _ = self.regularised_log_prob(x, seed=seed, step=step, sample_index=sample_index, context=context)
        return log_prob

    def regularised_log_prob(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        step: int = 0,
        sample_index: Tensor | None = None,
        context: Tensor | None = None,
        regularisers: Sequence[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-likelihood and regularisers from one solve.

        Args:
            x, seed, step, sample_index, context: as for `forward`.
            regularisers: names in `symadj_core.flows.integrands.regularisers.REGULARISERS`.

        Returns:
            the log-likelihood [...] in nats; of each regulariser its integral along each sample's trajectory, summed
            over the blocks, [...]. Both differentiable.

        Raises:
            ValueError: as `forward`, or a regulariser that a block does not give.
            SolverError: a block could not be solved.
        """
        flat, index, context = self._flatten(x, sample_index, context)
        if seed is None and sample_index is None:
            index = self._shared_index(index)
        z, sums = self._carry(
            flat,
            inverse=False,
            seed=self._seed() if seed is None else seed,
            step=step,
            sample_index=index,
            context=context,
            regularisers=regularisers,
        )
        log_det, *costs = sums.unbind(-1) if regularisers else [sums]
        shape = x.shape[:-1]
        named = {name: cost.view(shape) for name, cost in zip(regularisers, costs, strict=True)}
        return (self._base_log_prob(z) + log_det).view(shape), named

    def log_prob(self, value: Tensor, context: Tensor | None = None) -> Tensor:
        """`forward` without a seed: [..., D] -> [...], nats; the same at every call in eval mode."""
        result: Tensor = self(value, context=context)
        return result

    def to_base(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x -> z, [..., D] to [..., D]. The divergence is not evaluated."""
        flat, _, context = self._flatten(x, None, context)
        return self._carry(flat, inverse=False, context=context)[0].view(x.shape)

    def from_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """z -> x, the inverse of `to_base` up to the solver's tolerance."""
        flat, _, context = self._flatten(z, None, context)
        return self._carry(flat, inverse=True, context=context)[0].view(z.shape)

    def transport(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Trajectories through all blocks.

        The flow's time runs through the blocks one after the other: it is 0 where the data are and the sum of the
        blocks' end times where the base is.

        Args:
            x: [..., D], the states at t[0].
            t: [T], T >= 2, strictly increasing (towards the base) or decreasing (towards the data).
            context: [..., C], for a conditional flow.

        Returns:
            [T, ..., D], the states at the times t; differentiable with respect to x, context and weights.

        Raises:
            ValueError: t is not monotonic, or leaves the flow's time.
            SolverError: a block could not be solved.
        """
        flat, _, context = self._flatten(x, None, context)
        states, self._stats = trajectories(self.stack(), flat, t, context)
        return states.view(len(t), *x.shape)

    def condition(self, context: Tensor) -> ConditionalFlow:
        """The distributions given contexts [*batch, C], one for each.

        Raises:
            ValueError: the flow takes no context, or one of another width.
        """
        return ConditionalFlow(self, context)

    def expand(self, batch_shape: int | Sequence[int], _instance: Any = None) -> ConditionalFlow:
        """A batch of this one distribution. Of a conditional flow, `flow.condition(context)` is a batch."""
        return ConditionalFlow(self, torch.empty(*as_shape(batch_shape), 0))

    def rsample(self, sample_shape: int | Sequence[int] = (), context: Tensor | None = None) -> Tensor:
        """Samples [*sample_shape, D], differentiable with respect to weights and context."""
        return self.from_base(self._base_sample(sample_shape), context)

    def sample(self, sample_shape: int | Sequence[int] = (), context: Tensor | None = None) -> Tensor:
        """Samples [*sample_shape, D] from torch's generator, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, context)

    def sample_and_log_prob(
        self, sample_shape: int | Sequence[int] = (), context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples [*sample_shape, D] and their log-likelihoods [*sample_shape] from one solve; differentiable.

        Probes are those of `log_prob`.
        """
        z = self._base_sample(sample_shape)
        flat, index, context = self._flatten(z, None, context)
        index = self._shared_index(index)
        x, log_det = self._carry(flat, inverse=True, seed=self._seed(), step=0, sample_index=index, context=context)
        # The integral ran from T to 0 and so has the other sign.
        return x.view(z.shape), (self._base_log_prob(flat) - log_det).view(z.shape[:-1])

    def _carry(
        self,
        y: Tensor,
        *,
        inverse: bool,
        seed: int | None = None,
        step: int = 0,
        sample_index: Tensor | None = None,
        context: Tensor | None = None,
        regularisers: Sequence[str] = (),
    ) -> tuple[Tensor, Tensor]:
        """States through all blocks, and the summed integrals: of the divergence [B] (zeros without a seed), or of it
        and the regularisers [B, 1 + R]."""
        total = y.new_zeros((len(y), 1 + len(regularisers)) if regularisers else (len(y),))
        stats = []
        numbered = list(enumerate(self.stack()))
        for number, block in reversed(numbered) if inverse else numbered:
            integrals = None
            if seed is not None and sample_index is not None:
                integrals = Integrals(ProbeKey(seed, step, number), sample_index, regularisers)
            y, gained, counts = block.carry(y, inverse=inverse, context=context, integrals=integrals)
            stats.append(counts)
            total = total if gained is None else total + gained
        self._stats = stats
        return y, total

    def _base_log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(-1) + self.dim * math.log(2 * math.pi))

    def _seed(self) -> int:
        """Of the probes, where the caller gave none."""
        return int(torch.randint(2**62, ())) if self.training else 0

    def _shared_index(self, index: Tensor) -> Tensor:
        """The samples' numbers [B] for probes of their own in train mode; all zero, for the same ones, in eval mode."""
        return index if self.training else torch.zeros_like(index)

    def _base_sample(self, sample_shape: int | Sequence[int]) -> Tensor:
        like = next(self.parameters(), torch.empty(0))
        return torch.randn(*as_shape(sample_shape), self.dim, dtype=like.dtype, device=like.device)

    def _flatten(self, x: Tensor, sample_index: Tensor | None, context: Tensor | None) -> Inputs:
        return flattened(x, self.dim, sample_index, context, self.context_dim)
