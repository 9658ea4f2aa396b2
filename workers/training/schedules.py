"""The learning rate and the weights of the regularisers at each step.

All are pure functions of the spec, the step and the validations so far, so that a resumed run continues them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.objective import ConstantWeight, LinearWeight, WeightSchedule
from symadj.service.contract.spec.training import (
    ConstantSchedule,
    CosineSchedule,
    PlateauSchedule,
    Schedule,
    StopAfterSteps,
)
from symadj.workers.validation import Validation, stalls

__all__ = [
    "early_stop_nlls",
    "learning_rate",
    "likelihood_validations",
    "pretraining_steps",
    "regulariser_weights",
    "uncounted_steps",
]


def pretraining_steps(spec: JobSpec) -> int:
    """Return how many steps of pre-training precede those of the likelihood."""
    return 0 if spec.pretraining is None else spec.pretraining.steps


def uncounted_steps(spec: JobSpec) -> int:
    """Return how many steps there are whose validations can't be the best: those of pre-training, unless it counts."""
    return 0 if spec.early_stop is not None and spec.early_stop.count_pretraining else pretraining_steps(spec)


def likelihood_validations(spec: JobSpec, validations: Sequence[Validation]) -> list[float]:
    """Return the NLLs of the validations that were made while the likelihood was trained."""
    before = pretraining_steps(spec)
    return [validation.nll for validation in validations if validation.step > before]


def early_stop_nlls(spec: JobSpec, validations: Sequence[Validation]) -> list[float]:
    """Return the NLLs that early stopping waits over: the likelihood's, after the best of pre-training if that counts.

    Without a validation of the likelihood there are none: pre-training is never cut short.
    """
    nlls = likelihood_validations(spec, validations)
    uncounted, before = uncounted_steps(spec), pretraining_steps(spec)
    counted = [v.nll for v in validations if uncounted < v.step <= before and not math.isnan(v.nll)]
    return [min(counted), *nlls] if nlls and counted else nlls


def learning_rate(spec: JobSpec, step: int, validations: Sequence[Validation]) -> float:
    """Return the rate of ``step``, counted from 1.

    Pre-training and likelihood have a schedule each, which starts at the first step of its phase. It rises linearly
    over the warm-up, and then stays, decays as half a cosine to ``final_fraction`` (reached one step
    after the last, as in torch's CosineAnnealingLR: a last step at rate 0 would be wasted), or is cut at
    every plateau of the validation NLL.
    """
    before, pretraining = pretraining_steps(spec), spec.pretraining
    if pretraining is not None and step <= before:
        peak = spec.optimizer.learning_rate if pretraining.learning_rate is None else pretraining.learning_rate
        return peak * _fraction(pretraining.schedule, step, before, [])
    steps = spec.stop.max_steps - before if isinstance(spec.stop, StopAfterSteps) else None
    schedule = spec.optimizer.schedule
    nlls = likelihood_validations(spec, validations)
    return spec.optimizer.learning_rate * _fraction(schedule, step - before, steps, nlls)


def _fraction(schedule: Schedule, step: int, steps: int | None, nlls: Sequence[float]) -> float:
    """Return the share of the full rate at ``step`` of a phase of ``steps`` steps, both counted from 1."""
    if step <= schedule.warmup_steps:
        return step / (schedule.warmup_steps + 1)
    match schedule:
        case ConstantSchedule():
            return 1.0
        case CosineSchedule(final_fraction=floor):
            assert steps is not None  # the spec's own check
            progress = (step - 1 - schedule.warmup_steps) / (steps - schedule.warmup_steps)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
        case PlateauSchedule():
            cuts = stalls(nlls, schedule.patience, schedule.min_improvement)
            return max(schedule.final_fraction, schedule.factor**cuts)


def regulariser_weights(spec: JobSpec, step: int) -> dict[str, float]:
    """Return the weight of each regulariser at ``step`` of the whole training, counted from 1."""
    return {r.kind: r.weight * _factor(r.schedule, step) for r in spec.regularisers}


def _factor(schedule: WeightSchedule, step: int) -> float:
    match schedule:
        case ConstantWeight():
            return 1.0
        case LinearWeight():
            progress = (step - schedule.from_step) / (schedule.to_step - schedule.from_step)
            progress = min(max(progress, 0.0), 1.0)
            return (1 - progress) * schedule.start + progress * schedule.end
