"""Optuna's study of a sweep, built in memory from what the store has of its trials, as often as it is asked something.

Optuna's own storage is not used: it refuses a database in which another program's ``alembic_version`` stands, and on
SQLite, beside runs that store their records, it fails with "database is locked". So a study lives as long as one
question. What it answers depends on nothing but the stored trials and the sweep's seed, whichever process asks.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from symadj.service.contract.spec.search import (
    CmaEsSampler,
    GpSampler,
    GridSampler,
    HyperbandPruner,
    MedianPruner,
    NoPruner,
    Parameter,
    PercentilePruner,
    QmcSampler,
    SuccessiveHalvingPruner,
    TpeSampler,
)
from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.contract.spec.training import StopAfterSteps
from symadj.service.contract.states import TrialState
from symadj.service.store.tables import SweepTrial

__all__ = ["Suggestion", "Verdict", "judge", "needs_torch", "suggest"]

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


@dataclass(frozen=True)
class Suggestion:
    """What a sampler says of the next trial.

    Attributes:
        values: of the parameters, by path.
        attrs: what the sampler notes about the trial.
    """

    values: dict[str, Any]
    attrs: dict[str, Any]


def needs_torch(spec: SweepSpec, trials: Sequence[SweepTrial]) -> bool:
    """Return whether ``suggest`` would load PyTorch, which would stay in this process.

    Args:
        spec: of the sweep.
        trials: all so far, by number.
    """
    if not isinstance(spec.sampler, GpSampler):
        return False
    return sum(trial.state == TrialState.SUCCEEDED for trial in trials) >= spec.sampler.startup_trials


def suggest(spec: SweepSpec, trials: Sequence[SweepTrial]) -> Suggestion:
    """Return the values of the next trial's parameters.

    Args:
        spec: of the sweep.
        trials: all so far, by number.
    """
    if isinstance(spec.sampler, GridSampler):
        return Suggestion(spec.combination(len(trials)), {})
    if isinstance(spec.sampler, QmcSampler):
        return Suggestion(_point(spec, spec.sampler, len(trials)), {})
    study = _study(spec, trials)
    asked = study.ask(_distributions(spec))
    return Suggestion(_values(spec, asked), dict(study.trials[-1].system_attrs))


def _point(spec: SweepSpec, sampler: QmcSampler, number: int) -> dict[str, Any]:
    """Return a point of a sequence, counted from 0.

    Optuna draws a study's first trial at random, takes the point 0 for the second, and keeps the number of the last
    point in an attribute of the study, the only one: so the trial after the second is told which it is.
    """
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        sequence = optuna.samplers.QMCSampler(qmc_type=sampler.sequence, scramble=True, seed=sampler.seed)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name=_NAME, storage=storage, sampler=sequence)
    distributions = _distributions(spec)
    study.ask(distributions)
    asked = study.ask(distributions)
    if number > 0:
        study_id = storage.get_study_id_from_name(_NAME)
        (last,) = storage.get_study_system_attrs(study_id)
        storage.set_study_system_attr(study_id, last, number - 1)
        asked = study.ask(distributions)
    return _values(spec, asked)


def _values(spec: SweepSpec, asked: optuna.Trial) -> dict[str, Any]:
    return {path: _value(parameter, asked.params[path]) for path, parameter in spec.parameters.items()}


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
    spec: SweepSpec, trials: Sequence[SweepTrial], new: Mapping[int, Sequence[tuple[int, float]]]
) -> dict[int, Verdict]:
    """Tell the pruner new values of open trials, one after the other, until it gives the trial up.

    Args:
        spec: of the sweep.
        trials: all so far, by number, with what they have reported before.
        new: steps and values in order, by the number of the trial.
    """
    storage = optuna.storages.InMemoryStorage()
    study = _study(spec, trials, storage)
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
    spec: SweepSpec, trials: Sequence[SweepTrial], storage: optuna.storages.InMemoryStorage | None = None
) -> optuna.Study:
    study = optuna.create_study(
        study_name=_NAME,
        storage=storage,
        direction=spec.objective.direction,
        sampler=_sampler(spec, trials),
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


def _sampler(spec: SweepSpec, trials: Sequence[SweepTrial]) -> optuna.samplers.BaseSampler:
    """Return the sampler of the next trial, whose draws depend on nothing but its number and the seed."""
    if isinstance(spec.sampler, GridSampler | QmcSampler):
        return optuna.samplers.RandomSampler()  # it is asked nothing
    seed = int.from_bytes(hashlib.sha256(f"{spec.sampler.seed}/{len(trials)}".encode()).digest()[:4])
    if isinstance(spec.sampler, TpeSampler):
        return optuna.samplers.TPESampler(n_startup_trials=spec.sampler.startup_trials, seed=seed)
    if isinstance(spec.sampler, CmaEsSampler):
        return optuna.samplers.CmaEsSampler(popsize=spec.sampler.population, seed=seed, warn_independent_sampling=False)
    if isinstance(spec.sampler, GpSampler) and needs_torch(spec, trials):
        return optuna.samplers.GPSampler(n_startup_trials=spec.sampler.startup_trials, seed=seed)
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
