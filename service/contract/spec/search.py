"""What a sweep tries, in which order, what it measures, and when it gives a trial up."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from symadj.service.contract.result import JobResult
from symadj.service.contract.spec.section import Section, misfit

__all__ = [
    "MOST_GP_TRIALS",
    "MOST_GP_VALUES",
    "MOST_TRIALS",
    "VALIDATION",
    "CmaEsSampler",
    "GpSampler",
    "GridSampler",
    "HyperbandPruner",
    "MedianPruner",
    "NoPruner",
    "Objective",
    "Parameter",
    "PercentilePruner",
    "Pruner",
    "QmcSampler",
    "RandomSampler",
    "Sampler",
    "SuccessiveHalvingPruner",
    "TpeSampler",
    "measured_by_results",
]

MOST_TRIALS = 1000
# The memory that Optuna's Gaussian process takes grows with the trials, and with the values of a parameter that has not
# all between two: of more it would not fit into the dispatcher's.
MOST_GP_TRIALS = 500
MOST_GP_VALUES = 100_000
MOST_CHOICES = 64
# The metric of the stream, and of the result, by which trials are compared where nothing else is asked for.
VALIDATION = "validation_nll"

_LARGEST = 10**15  # whole numbers up to here are floats without rounding
_DEEPEST = 32
Bound = Annotated[int | float, Field(ge=-_LARGEST, le=_LARGEST)]
Choice = bool | int | float | str | None | dict[str, Any] | list[Any]


class Parameter(Section):
    """The values that a field may take: `choices`, or all between `low` and `high`.

    They are whole numbers where the field of `base` holds one.
    """

    choices: Annotated[tuple[Choice, ...], Field(min_length=1, max_length=MOST_CHOICES)] | None = Field(
        None, description="These values; whole sections are among what may stand here."
    )
    low: Bound | None = Field(None, description="The least.")
    high: Bound | None = Field(None, description="The largest.")
    step: Annotated[int | float, Field(gt=0, le=_LARGEST)] | None = Field(
        None, description="Between neighbouring values; null: any between, and of whole numbers all."
    )
    log: bool = Field(False, description="Whether the logarithm is spread evenly.")

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise misfit("", "choices stand by themselves: leave out low, high, step and log, or choices")
            if _is_deeper(self.choices, _DEEPEST):
                raise misfit("", f"choices have lists or objects within each other, more than {_DEEPEST} deep")
            seen = [json.dumps(choice, sort_keys=True) for choice in self.choices]
            if len(set(seen)) < len(seen):
                twice = next(text for number, text in enumerate(seen) if text in seen[:number])
                raise misfit("", f"{twice} stands twice among choices: keep one of them")
        elif self.low is None or self.high is None:
            raise misfit("", "give choices, or low and high")
        elif self.low >= self.high:
            raise misfit("", f"low {self.low} is not below high {self.high}")
        elif self.log and self.low <= 0:
            raise misfit("", f"low {self.low} has no logarithm: with log it must be above 0")
        elif self.log and self.step is not None:
            raise misfit("", "log and step don't go together: a logarithm has no even steps; leave one of them out")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """``low`` and ``high``, of a parameter without choices."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def extremes(self, *, whole: bool) -> Sequence[Choice]:
        """Return the values that show whether the others fit: both bounds, or every choice."""
        if self.choices is not None:
            return self.choices
        return [_as_number(bound, whole) for bound in self.bounds]

    def grid(self, *, whole: bool) -> Sequence[Choice] | None:
        """Return all values in order, None where there are too many to count."""
        if self.choices is not None:
            return self.choices
        step = self.step if self.step is not None else 1 if whole and not self.log else None
        if step is None:
            return None
        low, high = self.bounds
        # The last is there in spite of rounding; whatever is too many for a sweep is cut off.
        last = math.floor(min((high - low) / step * (1 + 1e-12), MOST_TRIALS))
        return [_as_number(low + step * number, whole) for number in range(last + 1)]


def _is_deeper(values: Any, most: int) -> bool:
    """Return whether JSON values have more than so many levels of lists and objects."""
    level = [values]
    for _ in range(most):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list | tuple)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def _as_number(value: float, whole: bool) -> int | float:
    return int(value) if whole else float(value)


class GridSampler(Section):
    """Every combination once, the last parameter changing fastest; each has `choices` or a `step`."""

    kind: Literal["grid"]


class RandomSampler(Section):
    """Every value as likely as any other, whatever came of the trials before."""

    kind: Literal["random"]
    seed: int = Field(0, ge=0, lt=2**32, description="Of the draws.")


class TpeSampler(Section):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011): values like those of the better trials."""

    kind: Literal["tpe"] = "tpe"
    seed: int = Field(0, ge=0, lt=2**32, description="Of the draws.")
    startup_trials: int = Field(10, ge=1, le=MOST_TRIALS, description="The first so many are drawn at random.")


class CmaEsSampler(Section):
    """Covariance matrix adaptation (Hansen and Ostermeier 2001): a normal distribution that moves to the best values.

    It is of the parameters with `low` and `high`, at least two; those with `choices` are drawn at random.
    """

    kind: Literal["cmaes"]
    seed: int = Field(0, ge=0, lt=2**32, description="Of the draws.")
    population: int | None = Field(
        None,
        ge=4,
        le=MOST_TRIALS,
        description="The distribution is adapted after every so many trials that have succeeded; null: "
        "4 + 3 ln(the number of parameters).",
    )


class QmcSampler(Section):
    """A scrambled sequence of low discrepancy: its points leave smaller gaps than random ones.

    The n-th trial is its n-th point, whatever came of the trials before (Bergstra and Bengio 2012).
    """

    kind: Literal["qmc"]
    seed: int = Field(0, ge=0, lt=2**32, description="Of the scrambling.")
    sequence: Literal["sobol", "halton"] = Field(
        "sobol", description="sobol is even after 2, 4, 8 ... trials, halton about as much after any number."
    )


class GpSampler(Section):
    """Optuna's Gaussian process: values of the largest expected improvement over the best (Jones et al. 1998).

    It learns from the trials that have succeeded, and knows which are open.
    """

    kind: Literal["gp"]
    seed: int = Field(0, ge=0, lt=2**32, description="Of the draws.")
    startup_trials: int = Field(
        10, ge=1, le=MOST_GP_TRIALS, description="Trials are drawn at random until so many have succeeded."
    )


Sampler = Annotated[
    TpeSampler | RandomSampler | GridSampler | CmaEsSampler | QmcSampler | GpSampler, Field(discriminator="kind")
]


class NoPruner(Section):
    """Every trial trains to its end."""

    kind: Literal["none"] = "none"


class _Pruner(Section):
    metric: str = Field(
        VALIDATION,
        min_length=1,
        max_length=100,
        description="Of the trial's metrics, in the objective's direction; the steps at which it is told must be the "
        "same in all trials.",
    )
    every_steps: int = Field(
        1,
        ge=1,
        le=100_000_000,
        description="Of the values of so many steps only the first counts.",
    )


class _StandingPruner(_Pruner):
    startup_trials: int = Field(5, ge=0, le=MOST_TRIALS, description="None is pruned before so many have succeeded.")
    warmup_steps: int = Field(0, ge=0, le=100_000_000, description="None is pruned before this step.")


class MedianPruner(_StandingPruner):
    """Stop a trial whose best value so far is worse than the median of those that succeeded, at the same step."""

    kind: Literal["median"]


class PercentilePruner(_StandingPruner):
    """Stop a trial whose best value so far is not among the best `percentile` of those that succeeded, at that step."""

    kind: Literal["percentile"]
    percentile: float = Field(
        25.0, ge=0, le=100, description="A trial that is not among the best so many of 100 is pruned."
    )


class _HalvingPruner(_Pruner):
    min_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Of the first rung; null: evaluation.validate_every_steps of `base`."
    )


class SuccessiveHalvingPruner(_HalvingPruner):
    """Let the best of every `reduction_factor` trials train on, for as many times more steps (ASHA, Li et al. 2020)."""

    kind: Literal["successive_halving"]
    reduction_factor: int = Field(4, ge=2, le=100, description="At each rung one of so many trials goes on.")


class HyperbandPruner(_HalvingPruner):
    """Successive halving from several first rungs at once (Li et al. 2018), up to stop.max_steps of `base`."""

    kind: Literal["hyperband"]
    reduction_factor: int = Field(3, ge=2, le=100, description="At each rung one of so many trials goes on.")


Pruner = Annotated[
    NoPruner | MedianPruner | PercentilePruner | SuccessiveHalvingPruner | HyperbandPruner,
    Field(discriminator="kind"),
]


def measured_by_results() -> list[str]:
    """Return the names of the numbers of a job's result, each of which may be an objective."""
    return [name for name, field in JobResult.model_fields.items() if _is_number(field.annotation)]


def _is_number(annotation: Any) -> bool:
    members = get_args(annotation)
    return annotation in (int, float) or (bool(members) and _is_number(members[0]))


class Objective(Section):
    """What makes a trial better than another."""

    metric: str = Field(
        VALIDATION,
        max_length=100,
        description="A number of the job's result: validation_nll, test_nll_original_units, train_seconds ... "
        "To choose by the test rows makes their likelihood too good a forecast for rows yet to come.",
    )
    direction: Literal["minimize", "maximize"] = Field("minimize", description="Whether less or more of it is better.")

    @model_validator(mode="after")
    def _is_measured(self) -> Self:
        known = measured_by_results()
        if self.metric not in known:
            close = difflib.get_close_matches(self.metric, known, n=1)
            hint = f": did you mean {close[0]!r}? It has" if close else ", which has"
            raise misfit("/objective/metric", f"{self.metric!r} is not a number of a result{hint} {', '.join(known)}")
        return self
