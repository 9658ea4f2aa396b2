"""Begins the trials of sweeps, gives up those that are not worth their end, and notes what came of each."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from symadj.service.contract.spec.search import NoPruner
from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.contract.states import TERMINAL, JobState, StopReason
from symadj.service.contract.storage import StorageUnreachableError
from symadj.service.dispatcher.settling import ACTOR
from symadj.service.dispatcher.suggesting import Suggester, SuggestionError
from symadj.service.errors import NoRoomError, TooManyRequestsError
from symadj.service.lifecycle import parents
from symadj.service.lifecycle import sweeps as lifecycle
from symadj.service.settings import Settings
from symadj.service.store import Database, metrics, sweeps
from symadj.service.store.sweeps import OpenTrial
from symadj.service.store.tables import Sweep, SweepTrial

__all__ = ["SweepRunner"]

log = logging.getLogger("symadj.dispatcher")

# After which a sweep is looked at again whose next trial was refused, or that could not be looked at.
PAUSE_SECONDS = 10.0
# Values of a trial that are told the pruner in one look.
_MOST_REPORTS = 10_000


class SweepRunner:
    """Carries sweeps on, from whatever the store has of them.

    The study is asked without a lock, as that may take a while; what comes of it is stored if the sweep's ``revision``
    is still that of the look. Several dispatchers may do so side by side.
    """

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], float]) -> None:
        self._database, self._settings, self._clock = database, settings, clock
        self._specs: dict[str, SweepSpec] = {}
        self._not_before: dict[str, float] = {}
        self._suggester = Suggester(clock)

    def close(self) -> None:
        """End what was started to choose values."""
        self._suggester.forget_all_but([])

    def carry_on(self) -> None:
        """Look once at every sweep that has not ended. What goes wrong with one is no other's trouble."""
        with self._database.read_session() as session:
            found = sweeps.unsettled(session)
        self._specs = {sweep_id: spec for sweep_id, spec in self._specs.items() if sweep_id in found}
        self._not_before = {sweep_id: time for sweep_id, time in self._not_before.items() if sweep_id in found}
        self._suggester.forget_all_but(found)
        for sweep_id in found:
            if self._clock() < self._not_before.get(sweep_id, -math.inf):
                continue
            try:
                self._settle(sweep_id)
                self._prune(sweep_id)
                while self._begin(sweep_id):
                    pass
            except Exception:
                log.exception("sweep %s can't be carried on now; tried again in %g s", sweep_id, PAUSE_SECONDS)
                self._not_before[sweep_id] = self._clock() + PAUSE_SECONDS

    def _spec(self, sweep: Sweep) -> SweepSpec:
        if sweep.id not in self._specs:
            self._specs[sweep.id] = SweepSpec.of_stored(sweep.spec)
        return self._specs[sweep.id]

    def _settle(self, sweep_id: str) -> None:
        """Note what came of the trials whose jobs have ended, and end the sweep after the last."""
        with self._database.read_session() as session:
            sweep = sweeps.find(session, sweep_id)
            if sweep is None:
                return
            spec = self._spec(sweep)
            found = sweeps.open_trials(session, sweep_id, None)
            ended = any(item.job is None or JobState(item.job.state) in TERMINAL for item in found)
            if not ended and (found or lifecycle.may_begin(sweep, spec, sweeps.trials(session, sweep_id))):
                return
        with self._database.session() as session:
            current = sweeps.find_locked(session, sweep_id)
            if current is not None:
                lifecycle.settle(session, current, spec)

    def _prune(self, sweep_id: str) -> None:
        """Tell the pruner what is new of the open trials, and cancel the jobs of those that it gives up."""
        with self._database.read_session() as session:
            sweep = sweeps.find(session, sweep_id)
            if sweep is None:
                return
            spec = self._spec(sweep)
            pruner = spec.pruner
            if isinstance(pruner, NoPruner):
                return
            found = [item for item in sweeps.open_trials(session, sweep_id, pruner.metric) if _has_news(item)]
            if not found:
                return
            trials = sweeps.trials(session, sweep_id)
            news = {item.trial.number: _news(session, item.trial, pruner.metric, pruner.every_steps) for item in found}
        from symadj.service.dispatcher import studies

        verdicts = studies.judge(spec, trials, {number: item.reports for number, item in news.items()})
        with self._database.session() as session:
            current = sweeps.find_locked(session, sweep_id)
            if current is None or current.revision != sweep.revision:
                return  # others were faster, or it was cancelled
            for item in sweeps.open_trials(session, sweep_id, None):
                trial = item.trial
                if trial.number not in verdicts:
                    continue
                verdict = verdicts[trial.number]
                lifecycle.note_reports(
                    current, trial, verdict.told, reports_seq=news[trial.number].last_seq, attrs=verdict.attrs
                )
                if verdict.pruned:
                    step, value = verdict.told[-1]
                    message = (
                        f"Its sweep gives it up: {pruner.metric} {value:.6g} at step {step} is not good enough beside "
                        f"the other trials' (pruner.kind {pruner.kind})."
                    )
                    data = {"step": step, "metric": pruner.metric, "value": value}
                    lifecycle.prune(session, current, trial, actor=ACTOR, message=message, data=data)
                    log.info("%s: trial %d is pruned at step %d", sweep_id, trial.number, step)

    def _begin(self, sweep_id: str) -> bool:
        """Begin the next trial, if there is one to begin now; return whether there may be another."""
        with self._database.read_session() as session:
            sweep = sweeps.find(session, sweep_id)
            if sweep is None:
                return False
            spec, trials = self._spec(sweep), sweeps.trials(session, sweep_id)
        if not lifecycle.may_begin(sweep, spec, trials):
            return False
        try:
            suggestion = self._suggester.ask(sweep_id, spec, trials)
        except SuggestionError as error:
            log.warning("%s: the values of trial %d can't be chosen now: %s", sweep_id, len(trials), error)
            self._wait(sweep_id, f"The next trial waits: {error}")
            return False
        if suggestion is None:
            return False
        settings = self._settings
        storage = settings.resolved_storage()
        try:
            parents.reach(spec.base, storage)
            with self._database.session() as session:
                current = sweeps.find_locked(session, sweep_id)
                if current is None or current.revision != sweep.revision:
                    return False
                trial = lifecycle.begin_trial(
                    session,
                    current,
                    spec,
                    suggestion.values,
                    suggestion.attrs,
                    number=len(trials),
                    storage=storage,
                    max_queued=settings.max_queued_per_owner,
                    max_bytes=settings.owner_disk_bytes,
                )
        except (NoRoomError, TooManyRequestsError, StorageUnreachableError) as error:
            self._wait(sweep_id, f"The next trial waits: {error}")
            return False
        log.info("%s: trial %d is %s", sweep_id, trial.number, trial.job_id or "no job: its values do not fit")
        return True

    def _wait(self, sweep_id: str, message: str) -> None:
        self._not_before[sweep_id] = self._clock() + PAUSE_SECONDS
        with self._database.session() as session:
            sweep = sweeps.find_locked(session, sweep_id)
            if sweep is not None:
                sweep.message = message


@dataclass(frozen=True)
class _News:
    """The values of a trial that the pruner has not been told, by rising step, and the last number of theirs."""

    reports: list[tuple[int, float]]
    last_seq: int


def _has_news(found: OpenTrial) -> bool:
    job = found.job
    return job is not None and job.stop_requested != StopReason.PRUNED and found.metric_seq > found.trial.reports_seq


def _news(session: Session, trial: SweepTrial, metric: str, every_steps: int) -> _News:
    assert trial.job_id is not None
    points = metrics.points(session, trial.job_id, metric, after_seq=trial.reports_seq, limit=_MOST_REPORTS)
    last = int(trial.reports[-1][0]) if trial.reports else -1
    reports = []
    for point in points:
        # A step that is trained again after a loss has the same value: it was told before.
        step = point.step // every_steps * every_steps
        if step > last and math.isfinite(point.value):
            reports.append((step, point.value))
            last = step
    return _News(reports, max((point.seq for point in points), default=trial.reports_seq))
