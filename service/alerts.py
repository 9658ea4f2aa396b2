"""When a training deserves an alert, and when that is over: by its own records, a step after the other."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from symadj.service.contract.spec.alerts import Alerts, Plateau

__all__ = ["LOSSES", "METRICS", "RULES", "Change", "Judge"]

RULES = ("diverged", "plateau", "nfe", "over_budget", "stalled")
LOSSES = ("loss", "flow_matching_loss")
# Of these, the first that a job has is its NLL of a batch.
_BATCH_NLL = ("nll", "loss")
METRICS = (*LOSSES, "nll", "validation_nll", "nfe_forward")

_MEDIAN_OF = 100
# A median of fewer steps says little.
_LEAST = 20
# Healthy steps in a row after which it is over.
_HEALTHY_STEPS = 20


@dataclass(frozen=True)
class Change:
    """A rule that holds from now on (``raised``), or does not any more: a sentence about it, and its figures."""

    rule: str
    raised: bool
    message: str
    data: dict[str, Any] = field(default_factory=dict)


class Judge:
    """Applies the rules of one job to what is stored of it; what it keeps in mind fits into JSON.

    Args:
        rules: of the job's spec.
        kept: of the judge before, from :meth:`kept`; empty: of a job that begins.
        active: the rules that hold now.
    """

    def __init__(self, rules: Alerts, kept: dict[str, Any], active: list[str]) -> None:
        self._rules = rules
        self.active = set(active)
        self._nfe: deque[float] = deque(kept.get("nfe", ()), maxlen=_MEDIAN_OF)
        self._healthy: dict[str, int] = dict(kept.get("healthy", {}))
        self._best: float | None = kept.get("best")
        self._best_step: int = kept.get("best_step", 0)
        self._average: float | None = kept.get("average")
        self._validated: bool = kept.get("validated", False)
        self._has_nll: bool = kept.get("has_nll", False)

    def kept(self) -> dict[str, Any]:
        """Return what the next judge of the job must know."""
        return {
            "nfe": list(self._nfe),
            "healthy": self._healthy,
            "best": self._best,
            "best_step": self._best_step,
            "average": self._average,
            "validated": self._validated,
            "has_nll": self._has_nll,
        }

    def metric(self, name: str, step: int, value: float) -> list[Change]:
        """Take the value of a metric at a step."""
        found: list[Change | None] = []
        if name in LOSSES and self._rules.diverged:
            told = f"{name} is {value} at step {step}."
            found.append(self._judge("diverged", not math.isfinite(value), told, {"step": step, "metric": name}))
        if name == "nfe_forward" and self._rules.nfe_factor is not None and value > 0:
            found.append(self._judge_nfe(self._rules.nfe_factor, step, value))
        if self._rules.plateau is not None and math.isfinite(value):
            found.append(self._judge_plateau(self._rules.plateau, name, step, value))
        return [change for change in found if change is not None]

    def diverged(self, message: str, data: dict[str, Any]) -> list[Change]:
        """Take that a step diverged, or that the job ended for it."""
        change = self._judge("diverged", True, message, data) if self._rules.diverged else None
        return [] if change is None else [change]

    def peak(self, peak: int | None, budget: int | None) -> list[Change]:
        """Take the highest peak of a worker so far, in bytes; a peak never falls, and so this is never over."""
        if not self._rules.over_budget or peak is None or budget is None or peak <= budget:
            return []
        told = f"A worker's peak is {peak:,} bytes, above resources.memory_budget {budget:,}."
        change = self._judge("over_budget", True, told, {"peak_bytes": peak, "memory_budget": budget})
        return [] if change is None else [change]

    def silence(self, seconds: float) -> list[Change]:
        """Take for how long no step of a running job has ended."""
        most = self._rules.stalled_seconds
        if most is None:
            return []
        told = f"No step has ended for {seconds:.0f} s, and alerts.stalled_seconds is {most:g}."
        change = self._judge("stalled", seconds >= most, told, {"seconds": round(seconds)}, healthy_steps=1)
        return [] if change is None else [change]

    def _judge_nfe(self, factor: float, step: int, value: float) -> Change | None:
        usual = median(self._nfe) if len(self._nfe) >= _LEAST else math.inf
        told = f"Step {step} took {value:g} evaluations forward, {factor:g} times the usual {usual:g} or more."
        data = {"step": step, "nfe_forward": value, "median": usual}
        exploded = value > factor * usual
        if not exploded:
            self._nfe.append(value)
        return self._judge("nfe", exploded, told, data)

    def _judge_plateau(self, rule: Plateau, name: str, step: int, value: float) -> Change | None:
        if name == "validation_nll":
            if not self._validated:
                self._validated, self._best = True, None
            nll = value
        elif name in _BATCH_NLL and not self._validated and (name == "nll" or not self._has_nll):
            if name == "nll" and not self._has_nll:
                self._has_nll, self._average, self._best = True, None, None
            weight = min(1.0, 10 / rule.steps)
            self._average = value if self._average is None else self._average + weight * (value - self._average)
            nll = self._average
        else:
            return None
        if self._best is None or nll < self._best - rule.improvement or step < self._best_step:
            self._best, self._best_step = nll, step
        waited = step - self._best_step
        told = (
            f"The NLL has not fallen by {rule.improvement:g} for {waited} steps, since {self._best:.6g} at step "
            f"{self._best_step}."
        )
        data = {"step": step, "best": self._best, "best_step": self._best_step}
        return self._judge("plateau", waited >= rule.steps, told, data, healthy_steps=1)

    def _judge(
        self, rule: str, holds: bool, message: str, data: dict[str, Any], *, healthy_steps: int = _HEALTHY_STEPS
    ) -> Change | None:
        """Return what changes by a rule that holds at this step, or does not."""
        if holds:
            self._healthy[rule] = 0
            if rule in self.active:
                return None
            self.active.add(rule)
            return Change(rule, True, message, data)
        if rule not in self.active:
            return None
        self._healthy[rule] = self._healthy.get(rule, 0) + 1
        if self._healthy[rule] < healthy_steps:
            return None
        self.active.remove(rule)
        return Change(rule, False, f"{rule} is over.", {})
