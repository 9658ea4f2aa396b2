"""A trained flow as a distribution over rows in the units of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from symadj_core.flows import Flow, piece_rows
from symadj_core.flows.inputs import as_shape
from symadj_core.trained.space import DataSpace

if TYPE_CHECKING:
    from symadj_core.trained.for_sbi import FlowEstimator

__all__ = ["TrainedFlow", "Units"]

Units = Literal["original", "transformed"]
Shape = int | Sequence[int]


class TrainedFlow(Distribution):
    """A trained flow: a `torch.distributions.Distribution` over rows in the units and columns of its data.

    `load` makes it. Every density is one per unit of the data, in nats: the transforms that the rows went through
    before training, and their Jacobians, are included. Rows are tensors or arrays [..., D], or anything with named
    columns (a pandas or polars frame, a pyarrow table, a dict of arrays), of which those of the flow are taken, in any
    order. Images are [..., channels, height, width].

    Of a conditional flow, `condition(context)` is a batch of distributions, one for each context [*batch, C] in the
    data's units; `log_prob` and the others take a context beside the rows as well.

    The weights are constants: `flow.flow.requires_grad_()` makes them parameters again. Gradients with respect to rows
    and contexts flow by the flow's gradient method, through the transforms; of any order by
    `with_settings(gradient="backprop")`.

    Values are computed in float64 between the units, and in the flow's dtype within the solve. The answer has the
    dtype of a floating tensor that was given, and is float64 otherwise, as samples are.

    Attributes:
        flow: in its own space, a module in eval mode.
        space: columns, transforms and shape.
        units: of the rows: "original", the data's own, or "transformed", what the flow sees.
        spec: of the job that trained it, as JSON values; empty if there was none.

    Args:
        flow, space, units, spec: as above.
        seed: of the probes for rows that are given with their numbers, where the divergence is estimated.
        batch_rows: rows whose training took a step's memory; larger inputs are scored in pieces.
        context: [*batch, C] as the flow takes it, for a conditioned flow.
        batch_shape: of a flow without context.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's declaration
    has_rsample = True

    def __init__(
        self,
        flow: Flow,
        space: DataSpace,
        *,
        units: Units = "original",
        spec: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch_rows: int = 1000,
        context: Tensor | None = None,
        batch_shape: Sequence[int] = (),
    ) -> None:
        batch = context.shape[:-1] if context is not None else torch.Size(batch_shape)
        super().__init__(batch, space.event_shape, validate_args=False)
        self.flow, self.space, self.units, self.spec = flow, space, units, dict(spec or {})
        self._seed, self._batch_rows, self._context = seed, batch_rows, context

    def __repr__(self) -> str:
        given = f" given {', '.join(self.context_columns)}" if self.context_columns else ""
        return (
            f"TrainedFlow({', '.join(self.columns[:8])}{', ...' if len(self.columns) > 8 else ''}{given}; "
            f"{len(self.flow.stack())} blocks, {self.units} units, batch_shape {tuple(self.batch_shape)})"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D columns."""
        return self.space.columns

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the C columns of the context; empty for a flow without one."""
        return self.space.context_columns

    @property
    def end_time(self) -> float:
        """The flow's time at the base, the sum of the blocks' end times; the data are at 0."""
        return float(sum(float(block.duration()) for block in self.flow.stack()))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and rows must be."""
        return next(self.flow.parameters()).device

    @property
    def support(self) -> constraints.Constraint:
        """The values that rows can have: all reals, save where a transform (logit, dequantise) has ends."""
        low, high = self.space.ends()
        bounds = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
        dims = len(self.event_shape)
        if all(a == -torch.inf and b == torch.inf for a, b in bounds):
            return constraints.independent(constraints.real, dims)  # type: ignore[no-untyped-call]
        if self.space.shape is not None or len(set(bounds)) == 1:
            ends = [torch.from_numpy(end).view(self.event_shape) for end in (low, high)]
            return constraints.independent(constraints.interval(*ends), dims)  # type: ignore[no-untyped-call]
        parts, lengths = [], []
        for (a, b), run in groupby(bounds):
            parts.append(constraints.real if a == -torch.inf else constraints.interval(a, b))  # type: ignore[no-untyped-call]
            lengths.append(len(list(run)))
        return constraints.cat(parts, -1, lengths)  # type: ignore[no-untyped-call]

    def to(self, device: str | torch.device) -> TrainedFlow:
        """The flow on a device; the weights are moved, not copied."""
        context = None if self._context is None else self._context.to(device)
        return self._with(flow=self.flow.to(device), context=context)

    def with_settings(self, **settings: Any) -> TrainedFlow:
        """The flow with other settings of the solver, as `Flow.with_settings` takes them: rtol, atol, divergence,
        solver, controller, gradient."""
        return self._with(flow=self.flow.with_settings(**settings))

    def condition(self, context: Any) -> TrainedFlow:
        """The distributions given contexts [*batch, C] in the data's units, one for each.

        Raises:
            ValueError: the flow takes no context, or one of another width; a value is not finite.
        """
        if not self.context_columns:
            raise ValueError("this flow takes no context: it was trained without context columns")
        return self._with(context=self.space.contexts(context, self.device))

    def as_sbi(self) -> FlowEstimator:
        """The flow as sbi's `ConditionalDensityEstimator`, for its posteriors and diagnostics.

            posterior = sbi.inference.DirectPosterior(flow.as_sbi(), prior)

        Raises:
            ValueError: the flow takes no context.
            ModuleNotFoundError: sbi is not installed.
        """
        from symadj_core.trained.for_sbi import FlowEstimator

        return FlowEstimator(self)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> TrainedFlow:
        """The same distributions as a batch of that shape, to which this one's broadcasts."""
        shape = as_shape(batch_shape)
        if self._context is None:
            return self._with(batch_shape=torch.broadcast_shapes(shape, self.batch_shape))  # type: ignore[no-untyped-call]
        return self._with(context=self._context.expand(*shape, -1))

    def log_prob(self, value: Any, context: Any = None, *, index: Tensor | None = None) -> Tensor:
        """Log-density in nats, per unit of the data; the same at every call, in any order and any batch.

        (An adaptive solver chooses its steps for all rows of a piece, and so agrees between batches to its tolerance.)

        Args:
            value: rows [..., *event_shape]. Rows of dequantised data are whole numbers, to which the noise of training
                is added, or whole numbers with noise, which are taken as they are.
            context: [..., C] in the data's units, broadcast against the rows; None takes the one the flow is
                conditioned on, or the context's columns beside the rows'.
            index: [...] int64, the rows' numbers in the data set: dequantised rows then get the noise, and estimated
                divergences the probes, that the job's test gave them.

        Returns:
            [..., *batch], of the rows' dtype.

        Raises:
            ValueError: columns are missing or too many, a value is not finite or outside of what a transform takes,
                shapes do not broadcast, or a context is missing or not taken.
            SolverError: a row could not be carried to the base.
        """
        rows, given, dtype = self.space.rows(value, self.device)
        contexts = self._contexts(context, value)
        rows, contexts, batch = self._beside(rows, given, contexts)
        numbers = None if index is None else torch.as_tensor(index).expand(batch).reshape(-1).to(self.device)
        y, log_abs_det = self.space.to_flow(rows, numbers)
        y = y.to(self._dtype)
        scores = [log_abs_det[:0]]
        with self._graph_if_needed(y, contexts):
            for piece in self._pieces(len(y)):
                seed = None if numbers is None else self._seed
                own = None if numbers is None else numbers[piece]
                score = self.flow(y[piece], seed=seed, sample_index=own, context=_of(contexts, piece))
                scores.append(score.to(log_abs_det.dtype) + log_abs_det[piece])
        return torch.cat(scores).view(batch).to(dtype)

    def rsample(
        self, sample_shape: Shape = (), context: Any = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Samples [*sample_shape, *batch, *event_shape] float64, differentiable with respect to the context and to
        weights that require it. Those of dequantised data are not rounded.

        Args:
            sample_shape: of the samples for each context.
            context: [*batch, C] in the data's units; None takes the one that the flow is conditioned on.
            generator: torch's CPU generator if there is none, so that a seed gives the same samples on any device.

        Raises:
            ValueError: a context is missing or not taken.
            SolverError: a sample could not be carried to the data.
        """
        return self._drawn(sample_shape, context, generator, rounded=False)

    @torch.no_grad()
    def sample(
        self, sample_shape: Shape = (), context: Any = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Samples as `rsample`, without gradient; whole numbers where the data were dequantised."""
        return self._drawn(sample_shape, context, generator, rounded=True)

    def sample_and_log_prob(
        self, sample_shape: Shape = (), context: Any = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples as `rsample`, and their log-densities [*sample_shape, *batch]."""
        conditioned = self if context is None else self.condition(context)
        samples = conditioned.rsample(sample_shape, generator=generator)
        return samples, conditioned.log_prob(samples)

    def to_base(self, value: Any, context: Any = None) -> Tensor:
        """Rows [..., *event_shape] to their places under the standard normal base, [..., D]."""
        rows, given, dtype = self.space.rows(value, self.device)
        rows, contexts, batch = self._beside(rows, given, self._contexts(context, value))
        y = self.space.to_flow(rows, None)[0].to(self._dtype)
        with self._graph_if_needed(y, contexts):
            z = [self.flow.to_base(y[piece], _of(contexts, piece)) for piece in self._pieces(len(y))]
        return torch.cat([y[:0], *z]).view(*batch, self.flow.dim).to(dtype)

    def from_base(self, z: Tensor, context: Any = None) -> Tensor:
        """z [..., D] to rows [..., *event_shape], not rounded: inverts `to_base` up to the solver's tolerance."""
        if z.shape[-1:] != (self.flow.dim,):
            raise ValueError(f"expected z [..., {self.flow.dim}], got {list(z.shape)}")
        flat, contexts, batch = self._beside(z.reshape(-1, self.flow.dim), z.shape[:-1], self._contexts(context, None))
        return self._to_data(flat, contexts, rounded=False).view(*batch, *self.event_shape).to(z.dtype)

    def transport(self, value: Any, t: Tensor, context: Any = None) -> Tensor:
        """Trajectories of rows, in the data's units all the way.

        Args:
            value: rows [..., *event_shape] at t[0].
            t: [T], T >= 2, strictly increasing, from 0 at the data to `end_time` at the base, or decreasing.
            context: as for `log_prob`.

        Returns:
            [T, ..., *event_shape], not rounded.

        Raises:
            ValueError: as `log_prob`; t is not monotonic, or leaves the flow's time.
        """
        rows, given, dtype = self.space.rows(value, self.device)
        rows, contexts, batch = self._beside(rows, given, self._contexts(context, value))
        y = self.space.to_flow(rows, None)[0].to(self._dtype)
        with self._graph_if_needed(y, contexts):
            paths = [self.flow.transport(y[piece], t, _of(contexts, piece)) for piece in self._pieces(len(y))]
        flat = self.space.from_flow(torch.cat(paths, 1).flatten(0, 1).to(rows.dtype), rounded=False)
        return flat.view(len(t), *batch, *self.event_shape).to(dtype)

    @property
    def rows_at_once(self) -> int:
        """How many rows are solved together: more of them are scored in pieces of so many, from the first row on."""
        return piece_rows(self.flow, self._batch_rows)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.flow.parameters()).dtype

    def _with(self, **changes: Any) -> TrainedFlow:
        same: dict[str, Any] = {
            "flow": self.flow,
            "space": self.space,
            "units": self.units,
            "spec": self.spec,
            "seed": self._seed,
            "batch_rows": self._batch_rows,
            "context": self._context,
            "batch_shape": self.batch_shape,
        }
        return TrainedFlow(**(same | changes))

    def _contexts(self, context: Any, value: Any) -> Tensor | None:
        """The contexts as the flow takes them, of the first place that has one."""
        if context is not None:
            return self.condition(context)._context
        if self._context is not None:
            return self._context
        if self.space.has_context(value):
            return self.space.contexts(value, self.device)
        if self.context_columns:
            raise ValueError(
                f"this flow needs a context [..., {len(self.context_columns)}] ({', '.join(self.context_columns)}): "
                "give context=..., or take flow.condition(context)"
            )
        return None

    def _beside(
        self, rows: Tensor, given: torch.Size, contexts: Tensor | None
    ) -> tuple[Tensor, Tensor | None, torch.Size]:
        """Rows [n, D] and contexts [n, C], one beside the other, and the batch shape of both."""
        batch = self.batch_shape if contexts is None else contexts.shape[:-1]
        try:
            both = torch.broadcast_shapes(given, batch)  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(
                f"rows of the batch {list(given)} do not broadcast against {list(batch)}, the batch of the "
                f"{'flow' if contexts is None else 'contexts'}"
            ) from None
        if both != given:
            rows = rows.view(*given, -1).expand(*both, -1).reshape(-1, rows.shape[-1])
        if contexts is not None:
            contexts = contexts.expand(*both, -1).reshape(-1, contexts.shape[-1]).to(self._dtype)
        return rows, contexts, both

    def _drawn(self, sample_shape: Shape, context: Any, generator: torch.Generator | None, *, rounded: bool) -> Tensor:
        contexts = self._contexts(context, None)
        batch = self.batch_shape if contexts is None else contexts.shape[:-1]
        shape = (*as_shape(sample_shape), *batch)
        place = "cpu" if generator is None else generator.device
        z = torch.randn(*shape, self.flow.dim, dtype=torch.float64, device=place, generator=generator)
        z = z.view(-1, self.flow.dim).to(self._dtype).to(self.device)
        if contexts is not None:
            contexts = contexts.expand(*shape, -1).reshape(-1, contexts.shape[-1]).to(self._dtype)
        return self._to_data(z, contexts, rounded=rounded).view(*shape, *self.event_shape)

    def _to_data(self, z: Tensor, contexts: Tensor | None, *, rounded: bool) -> Tensor:
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        z = z.to(self._dtype)
        with self._graph_if_needed(z, contexts):
            rows = [self.flow.from_base(z[piece], _of(contexts, piece)).to(wide) for piece in self._pieces(len(z))]
        return self.space.from_flow(torch.cat([z[:0].to(wide), *rows]), rounded=rounded)

    def _graph_if_needed(self, y: Tensor, contexts: Tensor | None) -> torch.set_grad_enabled:
        """Grad mode only where something can have a gradient: the trace of a field without a closed form would make a
        graph of constants otherwise."""
        needed = y.requires_grad or (contexts is not None and contexts.requires_grad)
        needed = needed or any(weight.requires_grad for weight in self.flow.parameters())
        return torch.set_grad_enabled(needed and torch.is_grad_enabled())

    def _pieces(self, rows: int) -> list[slice]:
        size = self.rows_at_once
        return [slice(first, first + size) for first in range(0, rows, size)]


def _of(contexts: Tensor | None, piece: slice) -> Tensor | None:
    return None if contexts is None else contexts[piece]
