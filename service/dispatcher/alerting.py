"""Looks at the stored records of trainings for what deserves an alert, in a thread of its own.

Here, and neither in the runs nor where records are stored: so no step, and no batch of records, takes longer for it,
and no fault of a rule can end a training.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from symadj.service.alerts import METRICS, Change, Judge
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.alerts import Alerts
from symadj.service.contract.states import TERMINAL, JobState, ReasonCode
from symadj.service.dispatcher.settling import ACTOR
from symadj.service.dispatcher.stored_specs import StoredSpecs
from symadj.service.store import Database, alerts, events, jobs, metrics
from symadj.service.store.tables import Job, JobAlerts

__all__ = ["Alerter"]

log = logging.getLogger("symadj.alerts")

LOOK_SECONDS = 2.0
# Numbers of metrics that are read at once of a job.
PIECE = 20_000
# After which what is known of a job is stored, though nothing has changed.
STORE_SECONDS = 60.0
_DIVERGENCES = ("divergence_skip_batch", "divergence_halve_rate")
_DIVERGED = {ReasonCode.DIVERGED.value, ReasonCode.SOLVER_STUCK.value}


@dataclass
class _Watched:
    """A job that is looked at: how far, what its judge knows, and since when, by our own clock, it made no step."""

    judge: Judge
    revision: int
    metric_seq: int
    event_seq: int
    stored_at: float
    moved_at: float
    state: str


class Alerter:
    """Writes the events ``alert`` and ``alert_over``. Call :meth:`look` again and again, or :meth:`start` it."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._specs = StoredSpecs()
        self._watched: dict[str, _Watched] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin to look, every other second."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(30.0)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:
                log.exception("a look for alerts failed; the next one starts anew")
                self._watched.clear()

    def look(self) -> None:
        """Look once at every training that has begun and not been looked at since its end."""
        with self._database.read_session() as session:
            opened = alerts.opened(session)
        self._watched = {job.id: self._watched[job.id] for job, _ in opened if job.id in self._watched}
        for job, row in opened:
            while self._look_at(job, row):
                pass

    def _look_at(self, job: Job, row: JobAlerts) -> bool:
        """Look at a piece of what a job has stored; return whether there is more."""
        spec = self._specs.of(job)
        now = self._clock()
        watched = self._watched.get(job.id)
        if watched is None or watched.revision != row.revision:
            rules = spec.alerts if isinstance(spec, JobSpec) else Alerts()
            judge = Judge(rules, row.kept, row.active)
            watched = _Watched(judge, row.revision, row.metric_seq, row.event_seq, now, now, job.state)
            self._watched[job.id] = watched
        up_to = min(job.metric_seq, watched.metric_seq + PIECE)
        changes = self._judge(job, watched, spec, up_to, now)
        more = up_to < job.metric_seq
        ended = JobState(job.state) in TERMINAL and not more
        if changes or ended or now - watched.stored_at >= STORE_SECONDS:
            self._store(job, watched, changes, ended)
            more = more and job.id in self._watched
            if job.id in self._watched:
                row.revision = watched.revision
        return more

    def _judge(self, job: Job, watched: _Watched, spec: object, up_to: int, now: float) -> list[Change]:
        judge, changes = watched.judge, list[Change]()
        if watched.metric_seq < up_to or watched.event_seq < job.event_seq:
            with self._database.read_session() as session:
                points = metrics.between(session, job.id, METRICS, after_seq=watched.metric_seq, up_to_seq=up_to)
                diverged = alerts.events_after(session, job.id, _DIVERGENCES, after_seq=watched.event_seq)
            for event in diverged:
                changes += judge.diverged(event.message, {"event": event.seq})
            for name, point in points:
                changes += judge.metric(name, point.step, point.value)
        if watched.metric_seq < up_to or job.state != watched.state:
            watched.moved_at, watched.state = now, job.state
        watched.metric_seq, watched.event_seq = up_to, max(watched.event_seq, job.event_seq)
        if job.reason in _DIVERGED:
            changes += judge.diverged(job.message or "The job ended for it.", {"reason": job.reason})
        if isinstance(spec, JobSpec):
            device = spec.resources.kind != "cpu"
            peak = job.device_peak_bytes if device else job.host_peak_bytes
            changes += judge.peak(peak, spec.resources.memory_budget)
        if job.state == JobState.RUNNING:
            changes += judge.silence(now - watched.moved_at)
        return changes

    def _store(self, job: Job, watched: _Watched, changes: list[Change], ended: bool) -> None:
        """Write down what has changed, unless another dispatcher was faster: then begin where that one is."""
        with self._database.session() as session:
            current = jobs.find_locked(session, job.id)
            row = alerts.find(session, job.id) if current is not None else None
            if current is None or row is None or row.revision != watched.revision:
                self._watched.pop(job.id, None)
                return
            row.open = not ended
            row.active = sorted(watched.judge.active)
            row.kept = watched.judge.kept()
            row.metric_seq, row.event_seq = watched.metric_seq, watched.event_seq
            row.revision = watched.revision = watched.revision + 1
            for change in changes:
                name = "alert" if change.raised else "alert_over"
                data = {"rule": change.rule} | change.data
                events.append(session, current, actor=ACTOR, name=name, message=change.message, data=data)
        watched.stored_at = self._clock()
        if ended:
            del self._watched[job.id]
