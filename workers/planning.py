"""A job's plan: what a worker of it will hold, by every gradient, from the spec and the number of columns alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from symadj.service.contract.plan import (
    IDLE_BYTES,
    PAIRING_BYTES,
    PLANNED_STEPS,
    STEP_BYTES,
    GradientPlan,
    HeldBytes,
    Plan,
    PlannedPart,
    PlannedPeak,
    PlannedPhase,
)
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.resources import GpuResources
from symadj.service.contract.spec.section import kinds_of
from symadj.service.contract.spec.solver import (
    AutoGradient,
    BackpropGradient,
    FixedSolver,
    Gradient,
    Keep,
    KeepBudget,
    NamedGradient,
    SymplecticGradient,
)
from symadj.service.contract.spec.training import SgdOptimizer
from symadj.workers.model.build import evaluation_flow, gradient_of, validation_flow
from symadj.workers.model.likelihood import DeviceRows
from symadj.workers.training.objective import Microbatch, Objective
from symadj.workers.training.optimisers import build_optimizer
from symadj.workers.training.pairing import sample_pairs
from symadj.workers.training.schedules import pretraining_steps
from symadj_core.flows import Flow, piece_rows
from symadj_core.gradients import Symplectic
from symadj_core.gradients.keep import Budget
from symadj_core.memory import resident_bytes
from symadj_core.planning import DEVICE_ROUNDING, Forecast, Loss, Rehearsal

__all__ = ["every_gradient", "idle_bytes", "make_plan"]

_SMALLEST_BUDGET = 2**20
_GRADIENT: TypeAdapter[Gradient] = TypeAdapter(Gradient)


def make_plan(
    spec: JobSpec,
    flow: Flow,
    *,
    idle_bytes: Callable[[], int | None] | None = None,
    workers: int | None = None,
    available_bytes: int | None = None,
    all_gradients: bool = True,
) -> Plan:
    """Plan the training of a flow.

    Args:
        spec: of the job.
        flow: as ``build_flow`` makes it from the spec; is only looked at.
        idle_bytes: measures what a worker's process holds before it has weights, where it is this one; asked once it
            has rehearsed, which loads what is then loaded anyway.
        workers: that share a batch; None: as many as the spec asks for.
        available_bytes: the most that each of them can have, where that is known.
        all_gradients: every way to make the gradient, or the spec's own alone.

    Raises:
        SolverError, RuntimeError: the flow can't be rehearsed, as `Rehearsal.forecast` says.
    """
    return _Planner(spec, flow, idle_bytes, workers or spec.resources.workers, available_bytes).plan(all_gradients)


def idle_bytes(spec: JobSpec, flow: Flow) -> int | None:
    """Return what this process holds between two steps of a training, beside weights and optimiser.

    What a step loads by the way (100 MiB of libraries, buffers of the linear algebra) comes in here: a step of a
    tiny model is taken first.

    Args:
        spec: of the job.
        flow: in this process's memory already, not counted.

    Returns:
        None where the platform has no such figure.
    """
    weight = nn.Parameter(torch.ones(64, 64))
    optimizer = build_optimizer(spec.optimizer, [weight])
    (torch.ones(64, 64) @ weight).square().mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if spec.pretraining is not None:
        sample_pairs(torch.ones(2, 1), 0, 1, 0, optimal_transport=spec.pretraining.optimal_transport)
    held = resident_bytes()
    return None if held is None else held - sum(x.nbytes for x in (*flow.parameters(), *flow.buffers()))


class _Planner:
    def __init__(
        self,
        spec: JobSpec,
        flow: Flow,
        idle_bytes: Callable[[], int | None] | None,
        workers: int,
        available_bytes: int | None,
    ) -> None:
        self._spec, self._flow, self._workers, self._available = spec, flow, workers, available_bytes
        self._on_gpu = isinstance(spec.resources, GpuResources)
        share = math.ceil(spec.batch_size / workers)
        at_once = spec.resources.microbatch_size
        self._batch = min(share, at_once) if isinstance(at_once, int) else share
        # The gradient of a batch's first rows is there while that of the next ones is made.
        self._accumulates = self._batch < share
        self._rounding = DEVICE_ROUNDING if self._on_gpu else 1
        self._idle_bytes = idle_bytes
        weights = sum(x.nbytes for x in (*flow.parameters(), *flow.buffers()))
        self._weights = weights * (1 + (spec.ema is not None)) * (1 + (spec.early_stop is not None))
        self._gradients = sum(p.nbytes for p in flow.parameters())
        self._optimizer = self._gradients * _moments(spec)
        budget = spec.resources.memory_budget
        # It is host memory: what a GPU must hold, it says nothing of.
        self._budget = None if budget is None or self._on_gpu else int(budget)
        self._steps = (spec.solver.steps,) if isinstance(spec.solver, FixedSolver) else PLANNED_STEPS
        self._rehearsal = Rehearsal(flow, loss=self._loss())
        self._phases = list(self._other_phases())

    def plan(self, all_gradients: bool) -> Plan:
        spec, own = self._spec, self._forecast(self._spec.gradient)
        resting = self._idle + self._weights + self._optimizer
        sections = list(every_gradient(spec.gradient, self._left_for_states())) if all_gradients else [spec.gradient]
        gradients = [self._gradient(section, self._forecast(section), own, resting) for section in sections]
        row = next(self._flow.parameters()).itemsize
        moved = max(block.part(_row(self._flow)).shape[-1] for block in self._flow.stack())
        return Plan(
            columns=self._flow.dim,
            context_columns=self._flow.context_dim,
            rows_per_worker=self._batch,
            blocks=len(self._flow.stack()),
            parameters=sum(p.numel() for p in self._flow.parameters()),
            idle_bytes=self._idle,
            weights_bytes=self._weights,
            optimizer_bytes=self._optimizer,
            state_bytes=moved * row * self._batch,
            graph_bytes=self._graph() if all_gradients else None,
            memory_budget=self._budget,
            available_bytes=self._available,
            gradients=gradients,
            phases=self._phases,
            largest_batch=self._largest_batch(own, resting),
        )

    @cached_property
    def _idle(self) -> int:
        if self._on_gpu:
            return 0
        measured = None if self._idle_bytes is None else self._idle_bytes()
        if measured is not None:
            return measured
        pretraining = self._spec.pretraining
        return (
            IDLE_BYTES
            + STEP_BYTES
            + (PAIRING_BYTES if pretraining is not None and pretraining.optimal_transport else 0)
        )

    def _forecast(self, gradient: Gradient, rows: int | None = None, rounding: int | None = None) -> Forecast:
        rows = self._batch if rows is None else rows
        rounding = self._rounding if rounding is None else rounding
        method = gradient_of(gradient)
        if isinstance(gradient, AutoGradient) and self._budget is not None:
            method = Symplectic(Budget(max(0, self._left_for_states()) // len(self._flow.stack())))
        return self._rehearsal.forecast(method, rows, rounding=rounding, accumulates=self._accumulates)

    def _other_phases(self) -> Iterator[PlannedPhase]:
        """Yield what the run does beside the steps of the likelihood."""
        spec, evaluation = self._spec, self._spec.evaluation
        if spec.pretraining is not None:
            yield PlannedPhase(
                phase="pretraining", rows=self._batch, peak_bytes=self._matching(self._batch, self._rounding)
            )
        if evaluation is None:
            return
        if evaluation.validate_every_steps is not None:
            validated, _ = validation_flow(self._flow, spec)
            yield self._scored("validation", validated, evaluation.validation_rows)
        if evaluation.test:
            tested, _ = evaluation_flow(self._flow, spec, evaluation)
            yield self._scored("evaluation", tested, evaluation.test_rows)

    def _matching(self, rows: int, rounding: int) -> int:
        return self._rehearsal.matching_bytes(rows, rounding=rounding, accumulates=self._accumulates)

    def _scored(self, phase: Literal["validation", "evaluation"], flow: Flow, rows: int | None) -> PlannedPhase:
        """Return what the scoring of so many held-out rows takes; None: of as many as are scored at once."""
        piece = piece_rows(flow, self._spec.batch_size // self._workers)
        if rows is not None:
            piece = min(piece, math.ceil(rows / self._workers))
        taken = Rehearsal(flow, beside=self._rehearsal).scoring_bytes(piece, rounding=self._rounding)
        # The gradients of the last step are still there; and the weights once more, if this flow has its own.
        copied = 0
        if next(flow.parameters()) is not next(self._flow.parameters()):
            copied = sum(x.nbytes for x in (*flow.parameters(), *flow.buffers()))
        return PlannedPhase(phase=phase, rows=piece, peak_bytes=taken + self._gradients + copied)

    def _loss(self) -> Loss:
        """The loss of the first step that is not of pre-training."""
        step = pretraining_steps(self._spec) + 1

        def loss(flow: Flow, x: Tensor, sample_index: Tensor, context: Tensor | None) -> Tensor:
            rows = Microbatch(DeviceRows(x, sample_index, context), 1.0, None)
            value: Tensor = Objective(self._spec, flow)(rows, step)[0]
            return value

        return loss

    def _gradient(self, section: Gradient, found: Forecast, own: Forecast, resting: int) -> GradientPlan:
        parts = [
            PlannedPart(
                phase=part.name,
                block=part.block,
                fixed_bytes=part.fixed_bytes,
                held=[HeldBytes(step_bytes=held.step_bytes, most_bytes=held.most_bytes) for held in part.held],
            )
            for part in found.parts
        ]
        peaks = []
        for steps in self._steps:
            limits: list[PlannedPart | PlannedPhase] = [*parts, *self._phases]
            limit = max(limits, key=lambda part: part.bytes(steps))
            held = resting + round(limit.bytes(steps))
            peaks.append(
                PlannedPeak(
                    steps=steps,
                    step_bytes=round(max(part.bytes(steps) for part in parts)),
                    worker_bytes=held,
                    relative_time=found.step_seconds / own.step_seconds,
                    limited_by=limit.words,
                    fits_budget=None if self._budget is None else held <= self._budget,
                    fits_workers=None if self._available is None else held <= self._available,
                )
            )
        return GradientPlan(
            gradient=section.model_dump(mode="json"),
            chosen=section == self._spec.gradient,
            exact=gradient_of(section).exact,
            parts=parts,
            peaks=peaks,
        )

    def _graph(self) -> int:
        """Return the bytes that backward needs of one use of the field: what backprop holds for each."""
        held = [
            sum(held.step_bytes for held in part.held)
            for part in self._forecast(BackpropGradient(kind="backprop")).parts
            if part.name == "forward"
        ]
        stages = self._flow.stack()[0].settings.solver.stages
        return round(max(after - before for before, after in zip([0.0, *held], held, strict=False)) / stages)

    def _left_for_states(self) -> int:
        """Return what resources.memory_budget leaves for states that are kept."""
        if self._budget is None:
            return 0
        steps = self._forecast(SymplecticGradient())
        return self._budget - self._idle - self._weights - self._optimizer - steps.peak_bytes(0)

    def _largest_batch(self, own: Forecast, resting: int) -> dict[int, int] | None:
        limits = [limit for limit in (self._budget, self._available) if limit is not None]
        if not limits:
            return None
        left, rows = min(limits) - resting, (self._batch, 2 * self._batch)
        once, twice = (self._forecast(self._spec.gradient, number, rounding=1) for number in rows)
        most = math.inf
        if self._spec.pretraining is not None:
            taken = self._matching(self._batch, self._rounding)
            most = self._most_rows(left - taken, *(self._matching(number, rounding=1) for number in rows))
        return {
            steps: int(
                min(
                    most,
                    self._most_rows(left - own.peak_bytes(steps), once.peak_bytes(steps), twice.peak_bytes(steps)),
                )
            )
            * self._workers
            for steps in self._steps
        }

    def _most_rows(self, left: int, once: int, twice: int) -> int:
        """Return how many rows of a step fit, if a worker's share of a batch leaves so many bytes.

        ``once`` and ``twice`` are what its share and twice as many rows take, not rounded as an accelerator's allocator
        does: a step holds a part that no row changes (gradients of weights), and so much for each row.
        """
        return max(0, math.floor(self._batch + left * self._batch / (twice - once)))


def every_gradient(own: Gradient, left_for_states: int = 0) -> Iterator[Gradient]:
    """Yield the ways to make the gradient: a spec's own, then every other one with its defaults.

    ``keep: budget``, which has no default, is given what is left for states.
    """
    yield own
    for kind, section in kinds_of(NamedGradient).items():
        if section is not SymplecticGradient:
            others: list[Gradient] = [_GRADIENT.validate_python({"kind": kind})]
        else:
            others = [
                SymplecticGradient.model_validate({"keep": {"kind": name}})
                for name, keep in kinds_of(Keep).items()
                if keep is not KeepBudget
            ]
            if left_for_states >= _SMALLEST_BUDGET:
                size = f"{left_for_states // _SMALLEST_BUDGET}MiB"
                others.append(SymplecticGradient.model_validate({"keep": {"kind": "budget", "size": size}}))
        yield from (other for other in others if other != own)


def _moments(spec: JobSpec) -> int:
    """Return how many numbers the optimiser keeps for each parameter."""
    if isinstance(spec.optimizer, SgdOptimizer):
        return int(spec.optimizer.momentum > 0)
    return 2


def _row(flow: Flow) -> Tensor:
    return next(flow.parameters()).new_empty(1, flow.dim)
