"""Continuous normalizing flows: stacked blocks, each with its own field, solver and gradient.

Data x is the state at t = 0, the base sample z the state at the end time of the last block:

    log p(x) = log N(z; 0, I) + sum over blocks of the integral of div f dt

(instantaneous change of variables, Chen et al., NeurIPS 2018). The log-determinant is a quadrature of the solve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from symadj_core import gradients, tableaus
from symadj_core.controller import AdaptiveController, Controller
from symadj_core.flows import divergence as divergences
from symadj_core.flows.divergence import Divergence, Hutchinson
from symadj_core.flows.probes import ProbeKey
from symadj_core.gradients import GradientMethod
from symadj_core.problem import Stats
from symadj_core.solve import default_controller, solve
from symadj_core.system import Quadrature
from symadj_core.tableaus import ButcherTableau


@dataclass(frozen=True)
class BlockSettings:
    """How a block is solved: everything about it that is not learnt."""

    divergence: Divergence
    solver: ButcherTableau
    controller: Controller
    gradient: GradientMethod


class Block(nn.Module):
    """One continuous transformation, x at t = 0 to z at t = end_time.

    Args:
        field: f(t, y) -> dy/dt with t 0-dim and y [B, D]; samples must not depend on each other. Not wrapped in DDP:
            wrap the flow.
        end_time: T > 0, in the field's time units.
        learn_end_time: make T a parameter.
        divergence: a `Divergence` or its name.
        solver: a tableau or its name.
        controller: step sizes; None is the solver's default.
        gradient: a gradient method or its name.
    """

    def __init__(
        self,
        field: nn.Module,
        *,
        end_time: float = 1.0,
        learn_end_time: bool = False,
        divergence: str | Divergence = Hutchinson(),  # noqa: B008 - frozen
        solver: str | ButcherTableau = "dopri5",
        controller: Controller | None = None,
        gradient: str | GradientMethod = "symplectic",
    ) -> None:
        super().__init__()
        if not end_time > 0:
            raise ValueError(f"end_time must be positive, not {end_time}")
        self.field = field
        tableau = tableaus.by_name(solver) if isinstance(solver, str) else solver
        self.settings = BlockSettings(
            divergences.by_name(divergence) if isinstance(divergence, str) else divergence,
            tableau,
            default_controller(tableau) if controller is None else controller,
            gradients.by_name(gradient) if isinstance(gradient, str) else gradient,
        )
        # A fixed end time stays on the host: as a buffer, every solve would wait for the device to read it.
        self.end_time: float | nn.Parameter = float(end_time)
        if learn_end_time:
            self.end_time = nn.Parameter(torch.tensor([float(end_time)]))

    def with_settings(self, settings: BlockSettings) -> Block:
        """A block that shares this one's weights and is solved by other settings."""
        twin = Block(self.field)
        twin.end_time = self.end_time
        twin.settings = settings
        return twin.train(self.training)

    def transport(
        self, y: Tensor, *, inverse: bool, key: ProbeKey | None = None, sample_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Stats]:
        """Carry states through the block.

        Args:
            y: [B, D].
            inverse: from t = T to 0 (base to data) instead of 0 to T.
            key, sample_index: for the divergence; without a key it is left out.

        Returns:
            states [B, D]; the integral of div f dt along the way [B], or None without a key; counts.

        Raises:
            SolverError: the end was not reached.
        """
        settings = self.settings
        if isinstance(self.end_time, float):
            end = torch.tensor([self.end_time], dtype=torch.float64)
        else:
            end = self.end_time.to(torch.promote_types(y.dtype, self.end_time.dtype))
        start = torch.zeros_like(end)
        t = torch.cat([end, start] if inverse else [start, end])
        quadrature = None
        if key is not None and sample_index is not None:
            rates = settings.divergence.rates(self.field, key, sample_index, y)
            quadrature = Quadrature(rates, y.new_zeros(len(y)))
        solution = solve(
            self.field,
            y,
            t,
            solver=settings.solver,
            controller=settings.controller,
            gradient=settings.gradient,
            quadrature=quadrature,
        )
        log_det = None if solution.quadratures is None else solution.quadratures[-1]
        return solution.ys[-1], log_det, solution.stats


class Flow(nn.Module, Distribution):
    """A stack of blocks over a standard normal base: a module and a `torch.distributions.Distribution`.

    `flow(x, seed=..., step=..., sample_index=...)` is the log-likelihood, so that DDP(flow)(x, ...) trains with every
    gradient method. `log_prob`, `sample`, `rsample` and `sample_and_log_prob` are as in torch.distributions.

    Args:
        blocks: applied in this order from data to base.
        dim: D.

    Attributes:
        last_stats: counts of the last solve through all blocks, summed; nfe_backward is there after backward.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's declaration
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, blocks: Sequence[Block], dim: int) -> None:
        nn.Module.__init__(self)
        Distribution.__init__(self, batch_shape=torch.Size(), event_shape=torch.Size([dim]), validate_args=False)
        if not blocks:
            raise ValueError("a flow needs at least one block")
        self.blocks = nn.ModuleList(blocks)
        self.dim = dim
        self._stats: list[Stats] = []

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    @property
    def last_stats(self) -> Stats:
        return reduce(add, self._stats, Stats())

    def with_settings(
        self,
        *,
        divergence: str | Divergence | None = None,
        solver: str | ButcherTableau | None = None,
        controller: Controller | None = None,
        gradient: str | GradientMethod | None = None,
        rtol: float | None = None,
        atol: float | None = None,
    ) -> Flow:
        """A flow that shares this one's weights and is solved otherwise; what is not given stays.

        Args:
            divergence, solver, controller, gradient: objects or names, as for `Block`.
            rtol, atol: tolerances in place of the controller's.

        Raises:
            ValueError: rtol or atol with fixed steps, or an unknown name.
        """
        changes: dict[str, Any] = {}
        if divergence is not None:
            changes["divergence"] = divergences.by_name(divergence) if isinstance(divergence, str) else divergence
        if solver is not None:
            changes["solver"] = tableaus.by_name(solver) if isinstance(solver, str) else solver
        if gradient is not None:
            changes["gradient"] = gradients.by_name(gradient) if isinstance(gradient, str) else gradient
        if controller is not None:
            changes["controller"] = controller
        tolerances: dict[str, Any] = {k: v for k, v in (("rtol", rtol), ("atol", atol)) if v is not None}
        twins = []
        for block in self._blocks():
            settings = replace(block.settings, **changes)
            if tolerances:
                if not isinstance(settings.controller, AdaptiveController):
                    raise ValueError("rtol and atol need an adaptive controller")
                settings = replace(settings, controller=replace(settings.controller, **tolerances))
            twins.append(block.with_settings(settings))
        return Flow(twins, self.dim).train(self.training)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(
        self, x: Tensor, *, seed: int | None = None, step: int = 0, sample_index: Tensor | None = None
    ) -> Tensor:
        """Log-likelihood in nats.

        Args:
            x: [..., D], floating.
            seed: of the probes; None draws one from torch's CPU generator.
            step: training step, another part of the probes' key.
            sample_index: [...] int64, the samples' numbers in their data set; None counts them in the batch.

        Returns:
            [...], of x's dtype.

        Raises:
            ValueError: x does not end in D.
            SolverError: a block could not be solved.
        """
        flat, index = self._flatten(x, sample_index)
        z, log_det = self._carry(flat, inverse=False, seed=_seed(seed), step=step, sample_index=index)
        return (self._base_log_prob(z) + log_det).view(x.shape[:-1])

    def log_prob(self, value: Tensor) -> Tensor:
        """`forward` with a probe seed drawn from torch's generator: [..., D] -> [...], nats."""
        result: Tensor = self(value)
        return result

    def to_base(self, x: Tensor) -> Tensor:
        """x -> z, [..., D] to [..., D]. The divergence is not evaluated."""
        flat, _ = self._flatten(x, None)
        return self._carry(flat, inverse=False)[0].view(x.shape)

    def from_base(self, z: Tensor) -> Tensor:
        """z -> x, the inverse of `to_base` up to the solver's tolerance."""
        flat, _ = self._flatten(z, None)
        return self._carry(flat, inverse=True)[0].view(z.shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples [*sample_shape, D], differentiable with respect to the weights."""
        return self.from_base(self._base_sample(sample_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Samples [*sample_shape, D] from torch's generator, without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def sample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Samples [*sample_shape, D] and their log-likelihoods [*sample_shape] from one solve; differentiable."""
        z = self._base_sample(sample_shape)
        flat, index = self._flatten(z, None)
        x, log_det = self._carry(flat, inverse=True, seed=_seed(None), step=0, sample_index=index)
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
    ) -> tuple[Tensor, Tensor]:
        """States through all blocks, and the summed integral of the divergence (zeros without a seed)."""
        total = y.new_zeros(len(y))
        stats = []
        numbered = list(enumerate(self._blocks()))
        for number, block in reversed(numbered) if inverse else numbered:
            key = None if seed is None else ProbeKey(seed, step, number)
            y, log_det, counts = block.transport(y, inverse=inverse, key=key, sample_index=sample_index)
            stats.append(counts)
            total = total if log_det is None else total + log_det
        self._stats = stats
        return y, total

    def _base_log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(-1) + self.dim * math.log(2 * math.pi))

    def _base_sample(self, sample_shape: Sequence[int]) -> Tensor:
        like = next(self.parameters())
        return torch.randn(*sample_shape, self.dim, dtype=like.dtype, device=like.device)

    def _flatten(self, x: Tensor, sample_index: Tensor | None) -> tuple[Tensor, Tensor]:
        if x.shape[-1:] != self.event_shape:
            raise ValueError(f"expected [..., {self.dim}], got {list(x.shape)}")
        flat = x.reshape(-1, self.dim)
        if sample_index is None:
            return flat, torch.arange(len(flat), device=x.device)
        if sample_index.shape != x.shape[:-1]:
            raise ValueError(f"sample_index has shape {list(sample_index.shape)} for x {list(x.shape)}")
        return flat, sample_index.reshape(-1).to(x.device)


def _seed(seed: int | None) -> int:
    return int(torch.randint(2**62, ())) if seed is None else seed
