"""A search over parameters of a job spec: many trials, each of them a job."""

from __future__ import annotations

import copy
import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from symadj.service.contract.result import EvaluationResult
from symadj.service.contract.spec.any_job import MOST_LABELS, JobName, LabelName, LabelValue
from symadj.service.contract.spec.job import JobSpec
from symadj.service.contract.spec.search import (
    MOST_GP_TRIALS,
    MOST_GP_VALUES,
    MOST_TRIALS,
    VALIDATION,
    CmaEsSampler,
    GpSampler,
    HyperbandPruner,
    NoPruner,
    Objective,
    Parameter,
    Pruner,
    Sampler,
    TpeSampler,
)
from symadj.service.contract.spec.section import STORED, Section, as_field, at, misfit

__all__ = ["SWEEP", "SweepSpec"]

# The label that the jobs of a sweep share.
SWEEP = "sweep"
MOST_PARAMETERS = 16

PathName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+){0,9}$", max_length=200)]
# What a sweep gives its jobs itself.
_OWN = ("name", "labels")
# Likelihoods of what these make of the rows can't be compared with each other.
_OF_UNITS = ("data", "data.transforms", "data.columns")
_IN_UNITS_OF_THE_FLOW = (VALIDATION, "test_nll")


class SweepSpec(Section):
    """A search: trials of one spec with other values of some of its fields, a job each."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "rates",
                    "base": {
                        "data": {"kind": "toy", "name": "moons"},
                        "stop": {"kind": "steps", "max_steps": 400},
                        "evaluation": {"validate_every_steps": 50},
                    },
                    "parameters": {
                        "optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
                        "flow.blocks": {"choices": [1, 2]},
                    },
                    "trials": 12,
                    "pruner": {"kind": "median"},
                }
            ]
        }
    )

    name: JobName = "sweep"
    labels: dict[LabelName, LabelValue] = Field(
        default_factory=dict, max_length=MOST_LABELS, description="Of the sweep; its jobs have those of `base`."
    )
    base: Annotated[JobSpec, as_field("base")] = Field(description="The spec of all trials, but for the parameters.")
    parameters: Annotated[dict[PathName, Parameter], Field(min_length=1, max_length=MOST_PARAMETERS)] = Field(
        description="By the path of the field in the spec: `optimizer.learning_rate`, `regularisers.0.weight`."
    )
    sampler: Sampler = Field(TpeSampler(), description="Which values are tried next.")
    pruner: Pruner = Field(NoPruner(), description="Which trials are given up before their end.")
    objective: Objective = Field(Objective(), description="By which figure trials are compared.")
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = Field(
        None, description="How many; null, for sampler.kind grid alone: one for every combination."
    )
    parallel: int = Field(2, ge=1, le=64, description="At most so many are in the queue or run at once.")
    max_failed: int = Field(
        5,
        ge=0,
        le=MOST_TRIALS,
        description="If more trials fail, no other is begun, and the sweep has failed.",
    )

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        if info.context != STORED:  # the job of each trial is checked again before it is submitted
            self._check_paths()
            self._check_count()
            self._check_values()
            self._check_objective()
            self._check_pruner()
        return self

    @classmethod
    def of_stored(cls, values: dict[str, Any]) -> Self:
        """Return a spec that was accepted before, from what ``stored`` returned.

        Raises:
            ValidationError: this version can't read it.
        """
        return cls.model_validate(values, context=STORED)

    def stored(self) -> dict[str, Any]:
        """Return the spec as JSON values with every default written out."""
        return self.model_dump(mode="json")

    def counted(self) -> Self:
        """Return the spec with the number of trials written out."""
        return self.model_copy(update={"trials": self.wanted})

    @property
    def wanted(self) -> int:
        """How many trials there are in all."""
        return self.trials if self.trials is not None else self._combinations()

    def is_whole(self, path: str) -> bool:
        """Return whether a parameter's values are whole numbers."""
        parameter = self.parameters[path]
        found = _found(self.base.stored(), path.split("."))
        if isinstance(found, int | float) and not isinstance(found, bool):
            return isinstance(found, int)
        return all(
            number is None or number == int(number) for number in (parameter.low, parameter.high, parameter.step)
        )

    def combination(self, number: int) -> dict[str, Any]:
        """Return the values of a trial of a grid, counted from 0."""
        values: dict[str, Any] = {}
        for path, parameter in reversed(self.parameters.items()):
            grid = parameter.grid(whole=self.is_whole(path)) or ()
            number, place = divmod(number, len(grid))
            values[path] = grid[place]
        return dict(reversed(values.items()))

    def job(self, values: Mapping[str, Any], *, sweep: str, number: int) -> JobSpec:
        """Return the spec of a trial's job.

        Args:
            values: of the parameters, by path.
            sweep: its id, for the label.
            number: of the trial.

        Raises:
            ValidationError: the values do not fit together.
        """
        changed = self.base.stored()
        # Whole sections first; the kind of one before its other fields, which it brings along.
        for path in sorted(values, key=lambda path: (path.count("."), not path.endswith(".kind"))):
            _put(changed, path.split("."), copy.deepcopy(values[path]))
        own = {"name": f"{self.name[:80]} {number}", "labels": changed["labels"] | {SWEEP: sweep}}
        return JobSpec.model_validate(changed | own)

    def _check_paths(self) -> None:
        base = self.base.stored()
        for path in self.parameters:
            first, *_ = parts = path.split(".")
            if first in _OWN:
                raise misfit(_pointer(path), f"{path}: the trials get their {first} from the sweep; take another field")
            place: Any = base
            for depth, part in enumerate(parts):
                above = ".".join(parts[:depth])
                if place is None or above in self.parameters or f"{above}.kind" in self.parameters:
                    break  # a section that is left out, or that varies: the spec with it tells
                if isinstance(place, dict):
                    if part not in place:
                        raise misfit(_pointer(path), f"{path} is not a field of the spec{_near(part, place)}")
                elif not isinstance(place, list):
                    raise misfit(_pointer(path), f"{path}: {above} is {json.dumps(place)}, which has no fields")
                elif not part.isdecimal() or int(part) >= len(place):
                    raise misfit(_pointer(path), f"{path}: {above} has {len(place)} items, counted from 0")
                place = _found(place, [part])

    def _check_count(self) -> None:
        if self.sampler.kind != "grid":
            if self.trials is None:
                raise misfit("/trials", f"trials is missing: say how many sampler.kind {self.sampler.kind} is to try")
            if isinstance(self.sampler, CmaEsSampler):
                self._check_adapted()
            if isinstance(self.sampler, GpSampler):
                self._check_fitted(self.trials)
            return
        for path, parameter in self.parameters.items():
            if parameter.grid(whole=self.is_whole(path)) is None:
                raise misfit(
                    _pointer(path),
                    f"{path} has a value between any two, and sampler.kind grid tries all: give it choices or a step, "
                    "or take sampler.kind random or tpe",
                )
        count = self._combinations()
        if count > MOST_TRIALS:
            raise misfit(
                "/parameters",
                f"there are {count if count < 10**9 else 'more than 1e9'} combinations, and {MOST_TRIALS} trials are "
                "the most: take fewer values, or sampler.kind random or tpe",
            )
        if self.trials not in (None, count):
            raise misfit(
                "/trials",
                f"trials is {self.trials} and the grid has {count} combinations: leave trials out, or take "
                "sampler.kind random or tpe",
            )

    def _check_adapted(self) -> None:
        adapted = [path for path, parameter in self.parameters.items() if parameter.choices is None]
        if len(adapted) < 2:
            raise misfit(
                "/sampler/kind",
                "sampler.kind cmaes adapts the covariance of at least two parameters with low and high, and "
                f"{f'{adapted[0]} alone has them' if adapted else 'none has them'}: take sampler.kind tpe",
            )

    def _check_fitted(self, trials: int) -> None:
        if trials > MOST_GP_TRIALS:
            raise misfit(
                "/trials",
                f"trials is {trials}, and sampler.kind gp, whose memory grows with them, takes {MOST_GP_TRIALS} at "
                "most: take fewer, or sampler.kind tpe",
            )
        for path, parameter in self.parameters.items():
            step = parameter.step or (1 if parameter.choices is None and self.is_whole(path) else None)
            if step is not None and (count := (parameter.bounds[1] - parameter.bounds[0]) / step) > MOST_GP_VALUES:
                raise misfit(
                    _pointer(path),
                    f"{path} has {count:.3g} values, and sampler.kind gp, which goes through all, takes "
                    f"{MOST_GP_VALUES} at most: give it a larger step, or take sampler.kind tpe",
                )

    def _combinations(self) -> int:
        grids = (parameter.grid(whole=self.is_whole(path)) or () for path, parameter in self.parameters.items())
        return math.prod(len(grid) for grid in grids)

    def corners(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield values of the parameters in which each takes its extremes in turn, and the path of that one.

        The others have their first; last come the last values of all, of the path "".
        """
        extremes = {path: item.extremes(whole=self.is_whole(path)) for path, item in self.parameters.items()}
        first = {path: values[0] for path, values in extremes.items()}
        yield "", first
        for path, values in extremes.items():
            yield from ((path, first | {path: value}) for value in values[1:])
        yield "", {path: values[-1] for path, values in extremes.items()}

    def _check_values(self) -> None:
        for path, parameter in self.parameters.items():
            numbers = (parameter.low, parameter.high, parameter.step)
            if self.is_whole(path) and any(number is not None and number != int(number) for number in numbers):
                raise misfit(_pointer(path), f"{path} takes whole numbers: low, high and step must be whole too")
        for path, values in self.corners():
            try:
                self.job(values, sweep="", number=MOST_TRIALS)
            except ValidationError as error:
                found = error.errors(include_url=False)[0]
                where = path or self._named_by(found)
                told = f"{where} {json.dumps(values[where])}" if where else json.dumps(values)
                raise misfit(
                    _pointer(where) if where else "/parameters", f"the spec with {told}: {_told(found)}"
                ) from error

    def _named_by(self, error: Any) -> str:
        """Return the parameter that an error of a job's spec is about, "" where that is none alone."""
        place = error.get("ctx", {}).get("pointer", "").strip("/").split("/")
        if place == [""]:
            place = [str(part) for part in error["loc"]]
        best = ""
        for path in self.parameters:
            # pydantic names the kind of a section within the place.
            rest = iter(place)
            if len(path) > len(best) and all(part in rest for part in path.split(".")):
                best = path
        return best

    def _check_objective(self) -> None:
        metric, evaluation = self.objective.metric, self.base.evaluation
        lacks = None
        if metric == VALIDATION and (evaluation is None or evaluation.validate_every_steps is None):
            lacks = "nothing is validated: set evaluation.validate_every_steps"
        elif metric in EvaluationResult.model_fields and evaluation is None:
            lacks = "base.evaluation is null: leave it out, or take train_seconds, parameters or a peak"
        elif metric.startswith(("test_", "nfe_test")) and evaluation is not None and not evaluation.test:
            lacks = "nothing is tested: set evaluation.test"
        if lacks is not None:
            raise misfit("/objective/metric", f"objective.metric {metric}: {lacks}")
        if metric in _IN_UNITS_OF_THE_FLOW:
            self._refuse_units("/objective/metric", f"objective.metric {metric}", "test_nll_original_units")

    def _check_pruner(self) -> None:
        if isinstance(self.pruner, NoPruner):
            return
        name = f"pruner.metric {self.pruner.metric}"
        if self.pruner.metric == VALIDATION:
            evaluation = self.base.evaluation
            if evaluation is None or evaluation.validate_every_steps is None:
                raise misfit(
                    "/pruner/metric",
                    f"{name}: nothing is validated while training: set evaluation.validate_every_steps, or "
                    "pruner.kind none",
                )
            if self.objective.direction == "maximize":
                raise misfit(
                    "/pruner/metric",
                    f"{name} is better the lower it is, and objective.direction is maximize, by which the pruner goes "
                    "too: take another metric, or pruner.kind none",
                )
            self._refuse_units("/pruner/metric", name, "pruner.kind none")
        if isinstance(self.pruner, HyperbandPruner) and self.base.stop.kind != "steps":
            raise misfit(
                "/pruner/kind", "pruner.kind hyperband needs base.stop.kind steps: its rungs end with the last"
            )

    def _refuse_units(self, pointer: str, name: str, instead: str) -> None:
        """Refuse likelihoods in units that vary from trial to trial."""
        for path in self.parameters:
            if path in _OF_UNITS or path.startswith(tuple(f"{part}." for part in _OF_UNITS[1:])):
                raise misfit(
                    pointer,
                    f"{name} is a likelihood of what data.transforms make of the rows, and {path} changes those: the "
                    f"trials could not be compared; take {instead}",
                )


def _pointer(path: str) -> str:
    return f"/parameters/{path}"


def _found(values: Any, parts: Sequence[str]) -> Any:
    """Return what stands at a path of JSON values, None where there is nothing."""
    for part in parts:
        if isinstance(values, list):
            values = values[int(part)] if part.isdecimal() and int(part) < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values


def _put(values: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    """Set what stands at a path of JSON values; another ``kind`` drops the fields of the kind before.

    Raises:
        ValidationError: nothing can stand there.
    """
    *above, last = parts
    place: Any = values
    for part in above:
        inner = _found(place, [part])
        if inner is None and isinstance(place, dict):
            place[part] = inner = {}
        place = inner
    if isinstance(place, list) and last.isdecimal() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        if last == "kind" and place.get("kind") != value:
            place.clear()
        place[last] = value
    else:
        raise at(JobSpec, tuple(parts), f"{'.'.join(parts)}: there is nothing of which that could be a part", value)


def _near(part: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(part, known, n=1)
    return f": did you mean {close[0]!r}? There are {', '.join(known)}" if close else f"; there are {', '.join(known)}"


def _told(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{place} is not a field there"
    return str(error["msg"]) if error["type"] == "misfit" or not place else f"{place}: {error['msg']}"
