"""A job's plan: what a worker of it will hold, by every gradient, from the spec and the number of columns alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import TypeAdapter
from torch import Tensor

from symadj.service.contract.plan import (
    IDLE_BYTES,
    PLANNED_STEPS,
    GradientPlan,
    HeldBytes,
    Plan,
    PlannedPart,
    PlannedPeak,
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
from symadj.workers.model.build import gradient_of
from symadj.workers.model.likelihood import DeviceRows
from symadj.workers.training.objective import Microbatch, Objective
from symadj.workers.training.schedules import pretraining_steps
from symadj_core.flows import Flow
from symadj_core.gradients import Symplectic
from symadj_core.gradients.keep import Budget
from symadj_core.planning import DEVICE_ROUNDING, Forecast, Loss, Rehearsal

__all__ = ["every_gradient", "make_plan"]

_SMALLEST_BUDGET = 2**20
_GRADIENT: TypeAdapter[Gradient] = TypeAdapter(Gradient)


def make_plan(
    spec: JobSpec,
    flow: Flow,
    *,
    idle_bytes: int | None = None,
    workers: int | None = None,
    available_bytes: int | None = None,
    all_gradients: bool = True,
) -> Plan:
    """Plan the training of a flow.

    Args:
        spec: of the job.
        flow: as ``build_flow`` makes it from the spec; is only looked at.
        idle_bytes: what a worker's process holds before it has weights, where that is known.
        workers: that share a batch; None: as many as the spec asks for.
        available_bytes: the most that each of them can have, where that is known.
        all_gradients: every way to make the gradient, or the spec's own alone.

    Raises:
        SolverError, RuntimeError: the flow can't be rehearsed, as `Rehearsal.forecast` says.
    """
    return _Planner(spec, flow, idle_bytes, workers or spec.resources.workers, available_bytes).plan(all_gradients)


class _Planner:
    def __init__(
        self, spec: JobSpec, flow: Flow, idle_bytes: int | None, workers: int, available_bytes: int | None
    ) -> None:
        self._spec, self._flow, self._workers, self._available = spec, flow, workers, available_bytes
        self._on_gpu = isinstance(spec.resources, GpuResources)
        share = math.ceil(spec.batch_size / workers)
        at_once = spec.resources.microbatch_size
        self._batch = min(share, at_once) if isinstance(at_once, int) else share
        self._idle = 0 if self._on_gpu else IDLE_BYTES if idle_bytes is None else idle_bytes
        weights = sum(x.nbytes for x in (*flow.parameters(), *flow.buffers()))
        copies = (1 + (spec.ema is not None)) * (1 + (spec.early_stop is not None))
        # With several workers torch's DDP has a buffer for the gradients.
        self._weights = weights * (copies + (workers > 1))
        self._optimizer = sum(p.nbytes for p in flow.parameters()) * _moments(spec)
        budget = spec.resources.memory_budget
        # It is host memory: what a GPU must hold, it says nothing of.
        self._budget = None if budget is None or self._on_gpu else int(budget)
        self._steps = (spec.solver.steps,) if isinstance(spec.solver, FixedSolver) else PLANNED_STEPS
        self._rehearsal = Rehearsal(flow, loss=self._loss())

    def plan(self, all_gradients: bool) -> Plan:
        spec, resting = self._spec, self._idle + self._weights + self._optimizer
        own = self._forecast(spec.gradient)
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
            largest_batch=self._largest_batch(own, resting),
        )

    def _forecast(self, gradient: Gradient, batch: int | None = None) -> Forecast:
        rows = self._batch if batch is None else batch
        rounding = DEVICE_ROUNDING if self._on_gpu else 1
        method = gradient_of(gradient)
        if isinstance(gradient, AutoGradient) and self._budget is not None:
            method = Symplectic(Budget(max(0, self._left_for_states()) // len(self._flow.stack())))
        return self._rehearsal.forecast(method, rows, rounding=rounding)

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
            limit = max(parts, key=lambda part: part.bytes(steps))
            taken = round(limit.bytes(steps))
            peaks.append(
                PlannedPeak(
                    steps=steps,
                    step_bytes=taken,
                    worker_bytes=resting + taken,
                    relative_time=found.step_seconds / own.step_seconds,
                    limited_by=limit.words,
                    fits_budget=None if self._budget is None else resting + taken <= self._budget,
                    fits_workers=None if self._available is None else resting + taken <= self._available,
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
        # What a step holds is a part that no row changes (gradients of weights) and so much for each row.
        twice = self._forecast(self._spec.gradient, 2 * self._batch)
        largest = {}
        for steps in self._steps:
            once = own.peak_bytes(steps)
            of_a_row = (twice.peak_bytes(steps) - once) / self._batch
            left = min(limits) - resting - (once - of_a_row * self._batch)
            largest[steps] = max(0, math.floor(left / of_a_row)) * self._workers
        return largest


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
