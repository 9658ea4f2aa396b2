"""One continuous transformation of a flow."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Never

import torch
from torch import Tensor, nn

from symadj_core.errors import SolverError
from symadj_core.flows.field_in_use import FieldInUse
from symadj_core.flows.fields.base import VectorField
from symadj_core.flows.integrands import regularisers
from symadj_core.flows.integrands.divergence import DIVERGENCES, Divergence, Exact, Hutchinson
from symadj_core.flows.integrands.probes import ProbeKey
from symadj_core.gradients import GRADIENTS, GradientMethod
from symadj_core.registry import Classes, refuse_options
from symadj_core.solve import Solution, default_controller, solve
from symadj_core.solvers.controller import CONTROLLERS, Controller
from symadj_core.solvers.problem import Callbacks, Stats
from symadj_core.solvers.system import Field, Quadrature
from symadj_core.solvers.tableaus import TABLEAUS, ButcherTableau


@dataclass(frozen=True)
class BlockSettings:
    """How a block is solved: everything about it that is not learnt."""

    divergence: Divergence
    solver: ButcherTableau
    controller: Controller
    gradient: GradientMethod
    field_dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Integrals:
    """What is integrated along the trajectories beside the state.

    Attributes:
        key, sample_index: for the divergence's probes; sample_index [B] int64.
        regularisers: names in `symadj_core.flows.integrands.regularisers.REGULARISERS`.
    """

    key: ProbeKey
    sample_index: Tensor
    regularisers: Sequence[str] = ()


class Carried(NamedTuple):
    """States [B, D] at the other end of a block, the integrals [B] or [B, 1 + R] if asked for, and counts."""

    states: Tensor
    integrals: Tensor | None
    stats: Stats


class Block(nn.Module):
    """One continuous transformation, x at t = 0 to z at t = end_time.

    Args:
        field: f(t, y) -> dy/dt with t 0-dim and y [B, D], or f(t, y, context) with context [B, C] if the field has a
            `context_dim` C > 0; samples must not depend on each other. Flow matching calls it with t [B] too. Not
            wrapped in DDP: wrap the flow.
        end_time: T > 0, in the field's time units.
        learn_end_time: make T a parameter, of which `duration` keeps T positive.
        divergence: a `Divergence` or its name; None is exact where that costs no more than an estimate (perceptrons of
            up to two hidden layers), and Hutchinson's with one probe elsewhere.
        solver: a tableau or its name.
        controller: step sizes; None is the solver's default.
        gradient: a gradient method or its name.
        field_dtype: torch.bfloat16 takes the products of matrices within the field in that precision; state,
            log-determinant, weights and solver stay float32. The field is then right to some 3 digits, which an rtol
            below 1e-3 would ask the solver to resolve, at the price of tiny steps.

    Raises:
        ValueError: an invalid end_time or field_dtype; an unknown name.
        TypeError: an option that it does not have; says which part of it does.
    """

    def __init__(
        self,
        field: nn.Module,
        *,
        end_time: float = 1.0,
        learn_end_time: bool = False,
        divergence: str | Divergence | None = None,
        solver: str | ButcherTableau = "dopri5",
        controller: Controller | None = None,
        gradient: str | GradientMethod = "symplectic",
        field_dtype: torch.dtype | None = None,
        **unknown: Never,
    ) -> None:
        super().__init__()
        parts: dict[str, Classes[Any]] = {"controller": CONTROLLERS, "divergence": DIVERGENCES, "gradient": GRADIENTS}
        refuse_options("Block", unknown, parts)
        if not 0 < end_time < math.inf:
            raise ValueError(f"end_time must be positive and finite, not {end_time}")
        if field_dtype is torch.float16:
            raise ValueError(
                "field_dtype must be torch.bfloat16, not torch.float16: cotangents, which a solve makes as small as "
                "its steps, fall below float16's range (6e-5) where a Jacobian's entries exceed it (65504)"
            )
        if field_dtype not in (None, torch.bfloat16):
            raise ValueError(f"field_dtype must be None or torch.bfloat16, not {field_dtype}")
        self.field = field
        tableau = TABLEAUS.find(solver)
        if divergence is None:
            free = field_dtype is None and getattr(field, "has_cheap_trace", False)
            divergence = Exact() if free else Hutchinson()
        self.settings = BlockSettings(
            DIVERGENCES.make(divergence),
            tableau,
            default_controller(tableau) if controller is None else controller,
            GRADIENTS.make(gradient),
            field_dtype,
        )
        # A fixed end time stays on the host: as a buffer, every solve would wait for the device to read it.
        self.end_time: float | nn.Parameter = float(end_time)
        self._lowest_as_it_is = max(float(end_time) / 100, 1e-15)
        if learn_end_time:
            self.end_time = nn.Parameter(torch.tensor([float(end_time)]))

    def duration(self) -> float | Tensor:
        """T as it is used: a number, or [1] with a gradient to the parameter if it is learnt.

        An optimiser may take the parameter p anywhere, and a flow has no inverse at T <= 0. So from a hundredth of the
        initial end time, b, downwards T is b^2 / (2 b - p), which goes on from p with the same value and slope and
        stays positive. Above, T is p itself, to the bit: a reparametrisation by a softplus or an exponential would give
        weights that were stored before another meaning, and a bound by clamping would have no gradient to come back by.
        """
        if isinstance(self.end_time, float):
            return self.end_time
        p, low = self.end_time, self._lowest_as_it_is
        return torch.where(p < low, low * low / (2 * low - p.clamp(max=low)), p)

    @property
    def knows_trace(self) -> bool:
        """Whether the exact divergence has a closed form, as the block is set."""
        return self.settings.field_dtype is None and getattr(self.field, "knows_trace", False)

    @property
    def has_cheap_trace(self) -> bool:
        """Whether the exact divergence costs no more than an estimate, in time and in memory, as the block is set."""
        return self.settings.field_dtype is None and getattr(self.field, "has_cheap_trace", False)

    def with_settings(self, settings: BlockSettings) -> Block:
        """A block that shares this one's weights and buffers, with other solver settings."""
        twin = copy.copy(self)
        twin.settings = settings
        return twin

    def check(self, dim: int) -> None:
        """Refuse states of a dimension D that this block does not fit.

        Raises:
            ValueError: the field is of another dimension, or the divergence does not work in it.
        """
        if isinstance(self.field, VectorField) and self.field.dim != dim:
            raise ValueError(f"the field has dim {self.field.dim} but must move {dim} entries: make it with dim {dim}")
        self.settings.divergence.check(dim)

    def part(self, y: Tensor) -> Tensor:
        """What of the states [..., D] the block moves, [..., d], as its field takes it: here all of it."""
        return y

    def with_part(self, y: Tensor, part: Tensor) -> Tensor:
        """The states [..., D] with that part [..., d] in its place."""
        return part

    def field_for(self, context: Tensor | None) -> nn.Module:
        """The field as one solve uses it.

        Args:
            context: [B, C], or None.
        """
        dtype = self.settings.field_dtype
        return self.field if context is None and dtype is None else FieldInUse(self.field, context, dtype)

    def carry(
        self, y: Tensor, *, inverse: bool, context: Tensor | None = None, integrals: Integrals | None = None
    ) -> Carried:
        """Carry states through the block.

        Args:
            y: [B, D].
            inverse: from t = T to 0 (base to data) instead of 0 to T.
            context: [B, C], or None.
            integrals: what to integrate along the trajectories, or None.

        Returns:
            with the integral of div f dt [B], or of div f and the regularisers [B, 1 + R].

        Raises:
            SolverError: the end was not reached.
            ValueError: a regulariser that this block's field or divergence does not give.
        """
        duration = self.duration()
        if isinstance(duration, float):
            # There whatever torch's default device is: every solve reads it.
            end = torch.tensor([duration], dtype=torch.float64, device="cpu")
        else:
            end = duration.to(torch.promote_types(y.dtype, duration.dtype))
        start = torch.zeros_like(end)
        solution = self._solve(self.part(y), torch.cat([end, start] if inverse else [start, end]), context, integrals)
        quadratures = solution.quadratures
        states = self.with_part(y, solution.ys[-1])
        return Carried(states, None if quadratures is None else quadratures[-1], solution.stats)

    def trajectory(
        self, y: Tensor, t: Tensor, context: Tensor | None = None, callbacks: Callbacks | None = None
    ) -> Solution:
        """The states that pass through y [B, D] at t[0], at all times t [T] of the block's own, 0 .. end_time.

        Args:
            y, t: as above.
            context: [B, C], or None.
            callbacks: called with every step of the solve.
        """
        solution = self._solve(self.part(y), t, context, None, callbacks)
        return replace(solution, ys=self.with_part(y.expand(len(t), *y.shape), solution.ys))

    def _solve(
        self,
        y: Tensor,
        t: Tensor,
        context: Tensor | None,
        integrals: Integrals | None,
        callbacks: Callbacks | None = None,
    ) -> Solution:
        settings = self.settings
        if settings.field_dtype is not None and y.dtype != torch.float32:
            raise ValueError(f"field_dtype {settings.field_dtype} needs a float32 state, not {y.dtype}")
        if torch.is_inference_mode_enabled():
            # Inference tensors can't take part in the derivatives that a divergence asks autograd for.
            with torch.inference_mode(False), torch.no_grad():
                given = None if context is None else context.clone()
                return self._solve(y.clone(), t.clone(), given, integrals, callbacks)
        field = self.field_for(context)
        try:
            return solve(
                field,
                y,
                t,
                solver=settings.solver,
                controller=settings.controller,
                gradient=settings.gradient,
                quadrature=None if integrals is None else self._quadrature(field, y, integrals),
                callbacks=callbacks,
            )
        except RuntimeError as error:
            # Checked only after an error: a field may accept states of another dtype than its weights'.
            weight = next(self.field.parameters(), y)
            if isinstance(error, SolverError) or (weight.dtype, weight.device) == (y.dtype, y.device):
                raise
            raise TypeError(
                f"the states are {y.dtype} on {y.device} and the weights {weight.dtype} on {weight.device}: bring the "
                "one to the other by `.to`"
            ) from error

    def _quadrature(self, field: Field, y: Tensor, integrals: Integrals) -> Quadrature:
        chosen = regularisers.by_names(integrals.regularisers)
        divergence = self.settings.divergence
        for regulariser in chosen:
            regulariser.check(divergence, self.field)
        rates = regularisers.regularised_rates(divergence, field, integrals.key, integrals.sample_index, y, chosen)
        return Quadrature(rates, y.new_zeros((len(y), 1 + len(chosen)) if chosen else (len(y),)))
