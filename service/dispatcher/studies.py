"""Optuna's study of a sweep, built in memory from what the store has of its trials, as often as it is asked something.

Optuna's own storage is not used: it refuses a database in which another program's ``alembic_version`` stands, and on
SQLite, beside runs that store their records, it fails with "database is locked". So a study lives as long as one
question. What it answers depends on nothing but the stored trials and the sweep's seed, whichever process asks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from symadj.service.contract.spec.search import (
    CmaEsSampler,
    GridSampler,
    HyperbandPruner,
    MedianPruner,
    NoPruner,
    Parameter,
    PercentilePruner,
    SuccessiveHalvingPruner,
    TpeSampler,
)
from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.contract.spec.training import StopAfterSteps
from symadj.service.contract.states import TrialState
from symadj.service.store.tables import SweepTrial

__all__ = ["Verdict", "judge", "suggest"]

optuna.logging.set_verbosity(optuna.logging.WARNING)

# By it Hyperband shares trials out among its brackets: the same in all sweeps, so that the same spec gives the same.
_NAME = "sweep"
_STATES = {
    TrialState.OPEN: optuna.trial.TrialState.RUNNING,
    TrialState.SUCCEEDED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    TrialState.CANCELLED: optuna.trial.TrialState.FAIL,
}


def suggest(sweep_id: str, spec: SweepSpec, trials: Sequence[SweepTrial]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of the next trial's parameters, by path, and what the sampler notes about it.

    Args:
        sweep_id: of the sweep.
        spec: of the sweep.
        trials: all so far, by number.
    """
    if isinstance(spec.sampler, GridSampler):
        return spec.combination(len(trials)), {}
    study = _study(sweep_id, spec, trials)
    asked = study.ask(_distributions(spec))
    values = {path: _value(spec.parameters[path], given) for path, given in asked.params.items()}
    return {path: values[path] for path in spec.parameters}, dict(study.trials[-1].system_attrs)


@dataclass(frozen=True)
class Verdict:
    """What a pruner says of a trial.

    Attributes:
        told: the steps and values that it was told before it said so.
        pruned: whether the trial is to be given up, for the last of them.
        attrs: what sampler and pruner note about the trial.
    """

    told: list[tuple[int, float]]
    pruned: bool
    attrs: dict[str, Any]


def judge(
    sweep_id: str, spec: SweepSpec, trials: Sequence[SweepTrial], new: Mapping[int, Sequence[tuple[int, float]]]
) -> dict[int, Verdict]:
    """Tell the pruner new values of open trials, one after the other, until it gives the trial up.

    Args:
        sweep_id: of the sweep.
        spec: of the sweep.
        trials: all so far, by number, with what they have reported before.
        new: steps and values in order, by the number of the trial.
    """
    storage = optuna.storages.InMemoryStorage()
    study = _study(sweep_id, spec, trials, storage)
    study_id = storage.get_study_id_from_name(_NAME)
    verdicts = {}
    for number, reports in new.items():
        trial = optuna.trial.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))
        told, pruned = [], False
        for step, value in reports:
            trial.report(value, step)
            told.append((step, value))
            pruned = trial.should_prune()
            if pruned:
                break
        verdicts[number] = Verdict(told, pruned, dict(study.trials[number].system_attrs))
    return verdicts


def _study(
    sweep_id: str,
    spec: SweepSpec,
    trials: Sequence[SweepTrial],
    storage: optuna.storages.InMemoryStorage | None = None,
) -> optuna.Study:
    study = optuna.create_study(
        study_name=_NAME,
        storage=storage,
        direction=spec.objective.direction,
        sampler=_sampler(spec, len(trials)),
        pruner=_pruner(spec),
    )
    distributions = _distributions(spec)
    for trial in trials:
        state = _STATES[TrialState(trial.state)]
        reports = {int(step): float(value) for step, value in trial.reports}
        value = trial.value
        if state == optuna.trial.TrialState.PRUNED and reports:
            value = reports[max(reports)]
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value,
                params={path: _internal(spec.parameters[path], given) for path, given in trial.parameters.items()},
                distributions=distributions,
                intermediate_values=reports,
                system_attrs=trial.attrs,
            )
        )
    return study


def _distributions(spec: SweepSpec) -> dict[str, BaseDistribution]:
    return {path: _distribution(item, spec.is_whole(path)) for path, item in spec.parameters.items()}


def _distribution(parameter: Parameter, whole: bool) -> BaseDistribution:
    if parameter.choices is not None:
        # By their places: a choice may be a list, or a whole section.
        return CategoricalDistribution(range(len(parameter.choices)))
    low, high = parameter.bounds
    if whole:
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)


def _value(parameter: Parameter, given: Any) -> Any:
    return given if parameter.choices is None else parameter.choices[given]


def _internal(parameter: Parameter, value: Any) -> Any:
    if parameter.choices is None:
        return value
    written = json.dumps(value, sort_keys=True)
    return next(place for place, item in enumerate(parameter.choices) if json.dumps(item, sort_keys=True) == written)


def _sampler(spec: SweepSpec, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the trial ``number``, whose draws depend on nothing but that and the seed."""
    if isinstance(spec.sampler, GridSampler):
        return optuna.samplers.RandomSampler()  # it is asked nothing
    seed = int.from_bytes(hashlib.sha256(f"{spec.sampler.seed}/{number}".encode()).digest()[:4])
    if isinstance(spec.sampler, TpeSampler):
        return optuna.samplers.TPESampler(n_startup_trials=spec.sampler.startup_trials, seed=seed)
    if isinstance(spec.sampler, CmaEsSampler):
        return optuna.samplers.CmaEsSampler(popsize=spec.sampler.population, seed=seed, warn_independent_sampling=False)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(spec: SweepSpec) -> optuna.pruners.BasePruner:
    match pruner := spec.pruner:
        case NoPruner():
            return optuna.pruners.NopPruner()
        case MedianPruner():
            return optuna.pruners.MedianPruner(pruner.startup_trials, pruner.warmup_steps)
        case PercentilePruner():
            return optuna.pruners.PercentilePruner(pruner.percentile, pruner.startup_trials, pruner.warmup_steps)
        case SuccessiveHalvingPruner():
            return optuna.pruners.SuccessiveHalvingPruner(_first_rung(spec, pruner.min_steps), pruner.reduction_factor)
        case HyperbandPruner():
            stop = spec.base.stop
            last = stop.max_steps if isinstance(stop, StopAfterSteps) else "auto"
            first = _first_rung(spec, pruner.min_steps)
            return optuna.pruners.HyperbandPruner(first, last, pruner.reduction_factor)


def _first_rung(spec: SweepSpec, min_steps: int | None) -> int:
    evaluation = spec.base.evaluation
    return min_steps or (evaluation is not None and evaluation.validate_every_steps) or 1
