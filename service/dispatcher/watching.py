"""Looks after the jobs that hold a part of the cluster."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx

from symadj.service import capacity, spools
from symadj.service.contract.output import Mask
from symadj.service.contract.states import ACTIVE, JobState, ReasonCode, StopReason
from symadj.service.dispatcher.heartbeats import Heartbeats
from symadj.service.dispatcher.settling import ACTOR, Settler
from symadj.service.dispatcher.stopwatches import Stopwatches
from symadj.service.dispatcher.stored_specs import StoredSpecs
from symadj.service.lifecycle import attempts
from symadj.service.ray_jobs import RayJob, RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs, sources
from symadj.service.store.tables import Attempt, IngestSource, Job

__all__ = ["Watcher"]

log = logging.getLogger("symadj.dispatcher")

# Signals by which a process is ended for what it did itself.
_CRASHES = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


@dataclass(frozen=True)
class _Run:
    """An active job, its attempts, and how far the records of the newest one are stored."""

    job: Job
    attempts: Sequence[Attempt]
    sources: Sequence[IngestSource]

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]

    @property
    def training(self) -> bool:
        """Whether a rank has reported: one that has not does not learn that it must stop."""
        return any(source.source != "driver" and source.next_seq > 1 for source in self.sources)

    def seconds(self, watches: Stopwatches) -> float:
        """Return how long all attempts took together, from when Ray had them."""
        return sum(_seconds_of(attempt, watches) for attempt in self.attempts)


def _seconds_of(attempt: Attempt, watches: Stopwatches) -> float:
    if attempt.submitted_at is None:
        return 0.0
    if attempt.finished_at is None:
        return watches.elapsed(attempt.job_id, attempt.number, attempt.submitted_at)
    measured = watches.last(attempt.job_id, attempt.number)
    if measured is not None:
        return measured
    return max(0.0, (attempt.finished_at - attempt.submitted_at).total_seconds())


class Watcher:
    """Notices runs that ended without an outcome, that fell silent, that do not stop, or whose time is over."""

    def __init__(
        self,
        database: Database,
        ray: RayJobs,
        settings: Settings,
        heartbeats: Heartbeats,
        watches: Stopwatches,
        specs: StoredSpecs,
    ) -> None:
        self._database = database
        self._ray = ray
        self._settings = settings
        self._heartbeats = heartbeats
        self._watches = watches
        self._specs = specs
        self._settler = Settler(database, settings)
        self._mask = Mask.of_environment(os.environ)
        # As for Ray: a proxy of the environment is for the outside world.
        self._api = httpx.Client(base_url=settings.api_url, timeout=5.0, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def look(self) -> None:
        """Look once at every active job."""
        active = self._active()
        self._watches.forget_old()
        alive = [run for run in active if self._look_at(run)]
        self._end_silent_ones(alive)

    def drain(self) -> bool:
        """Ask every active run to stop because the service does, and look once at each; return whether any is left."""
        for run in self._active():
            with self._settler.settle(run.job) as current:
                if current is not None:
                    attempts.ask_service_stop(current.session, current.job, actor=ACTOR)
        self.look()
        return bool(self._active())

    def _active(self) -> list[_Run]:
        with self._database.read_session() as session:
            active = jobs.active(session)
            tries = jobs.attempts_of(session, [job.id for job in active])
            heard: dict[str, list[IngestSource]] = {job.id: [] for job in active}
            for source in sources.of_attempts(session, [(job.id, job.attempt) for job in active]):
                heard[source.job_id].append(source)
        return [_Run(job, tries[job.id], heard[job.id]) for job in active]

    def _look_at(self, run: _Run) -> bool:
        """Look at one job; return whether Ray has its run and the run lives."""
        job, attempt = run.job, run.attempt
        if attempt.submitted_at is None:
            if attempt.lease_expires_at is None or self._claim_expired(attempt, attempt.lease_expires_at):
                self._recover_claim(job, attempt.submission_id)
            return False
        ray_job = self._ray.job(attempt.submission_id)
        if ray_job is None or ray_job.ended:
            # What the run could not send itself: its outcome, perhaps.
            retry_seconds = self._settings.retry_seconds
            spools.deliver(self._database, self._settings.spool, job.id, attempt.number, retry_seconds=retry_seconds)
            self._lose(job, *self._why(ray_job, attempt.submission_id, job.stop_requested))
            return False
        self._enforce_timeout(run)
        if job.stop_requested_at is not None:
            grace = self._grace(job) if run.training else 0.0
            if self._watches.elapsed(job.id, "stop", job.stop_requested_at) >= grace:
                log.info("%s does not stop by itself: Ray stops it", job.id)
                self._ray.stop(attempt.submission_id)
        return not self._lost_its_place(run)

    def _claim_expired(self, attempt: Attempt, expires_at: datetime) -> bool:
        since = expires_at - timedelta(seconds=attempts.LEASE_SECONDS)
        return self._watches.elapsed(attempt.job_id, "claim", since) > attempts.LEASE_SECONDS

    def _grace(self, job: Job) -> float:
        """Return how many seconds a run that trains has to stop by itself."""
        if job.stop_requested == StopReason.SERVICE_STOPPED:
            return self._settings.stop_grace_seconds
        return self._settings.cancel_grace_seconds

    def _lost_its_place(self, run: _Run) -> bool:
        """Put a job back whose workers have not started and which the cluster can't hold any more; return whether.

        A node died between the claim and their start, or had died before and Ray noticed late. Ray would wait for it to
        come back; in the queue an elastic job finds a smaller size, and others may pass one that is not.
        """
        job = run.job
        if job.state != JobState.STARTING or job.stop_requested is not None:
            return False
        spec = self._specs.of(job)
        if spec is None or capacity.holds(spec.resources, run.attempt.workers, self._ray.nodes()):
            return False
        message = f"The cluster has become too small for its {run.attempt.workers} workers."
        with self._settler.settle(job) as current:
            if current is None or current.job.state != JobState.STARTING:
                return False
            current.put_back(message)
        log.warning("%s: %s", job.id, message)
        self._ray.stop(run.attempt.submission_id)
        return True

    def _enforce_timeout(self, run: _Run) -> None:
        minutes, seconds = run.job.spec.get("timeout_minutes"), run.seconds(self._watches)
        if minutes is None or run.job.stop_requested is not None or seconds < 60.0 * minutes:
            return
        with self._settler.settle(run.job) as current:
            if current is not None:
                message = f"The attempts took {seconds / 60:.1f} minutes of timeout_minutes {minutes:g}."
                attempts.ask_timeout(current.session, current.job, actor=ACTOR, message=message)

    # ------------------------------------------------------------------------------------------- who is silent

    def _end_silent_ones(self, alive: Sequence[_Run]) -> None:
        """Give up the runs of which a part was silent for longer than its lease."""
        seen: dict[Hashable, datetime] = {}
        of: dict[Hashable, tuple[_Run, str]] = {}
        for run in alive:
            for source in run.sources:
                if source.seen_at is not None and not source.closed:
                    key: Hashable = (run.attempt.submission_id, source.source)
                    seen[key], of[key] = source.seen_at, (run, source.source)
        if seen:
            if not self._api_takes_records():
                self._heartbeats.start_afresh()
                return
            self._check_store_is_not_locked()
        given_up = set()
        for key, seconds in self._heartbeats.look(seen).items():
            run, source_name = of[key]
            if run.job.id in given_up:
                continue
            given_up.add(run.job.id)
            log.warning("%s: %s is silent: Ray stops the run", run.job.id, source_name)
            message = f"{source_name} was not heard from for {seconds:.0f} s, while the API took records."
            # First: a store that can't be written (its disk is full) takes no records, and no run must end for that.
            self._lose(run.job, ReasonCode.WORKER_LOST, message)
            self._ray.stop(run.attempt.submission_id)

    def _check_store_is_not_locked(self) -> None:
        """Raise what the store raises if its file is locked: SQLite answers questions then, and takes nothing in."""
        self._database.check_writable()

    def _api_takes_records(self) -> bool:
        """Ask by the way that the runs' records go: through the same threads and connections of the API."""
        try:
            return self._api.get("/ingestz").status_code == 200
        except httpx.HTTPError:
            return False

    # -------------------------------------------------------------------------------------------- how runs end

    def _why(
        self, ray_job: RayJob | None, submission_id: str, stop_requested: str | None = None
    ) -> tuple[ReasonCode, str]:
        """Return why a run that ended without an outcome did so; ``stop_requested`` is what was asked of it."""
        if ray_job is None:
            return ReasonCode.CLUSTER_LOST, "Ray was restarted and no longer knows this run."
        if ray_job.supervisor_lost:
            return ReasonCode.CLUSTER_LOST, f"Ray lost the run's driver, with its node perhaps. {ray_job.message}"
        if ray_job.status == "STOPPED" and stop_requested is not None:
            return ReasonCode.WORKER_LOST, f"symadj had Ray end it ({stop_requested})."
        if ray_job.killed:
            message = (
                "The run's driver was killed from outside (by the system, if memory ran out: then run fewer jobs at "
                "once, or take more memory)."
            )
            if ray_job.ended_by is not None and ray_job.ended_by in _CRASHES:
                message = f"The run's driver crashed in native code ({ray_job.ended_by.name})."
            told = f"Ray: {ray_job.status}, exit code {ray_job.exit_code}."
            return ReasonCode.WORKER_LOST, self._with_last_lines(f"{message} {told}", submission_id)
        message = f"The run ended without an outcome (Ray: {ray_job.status}). {ray_job.message}".strip()
        return ReasonCode.INTERNAL, self._with_last_lines(message, submission_id)

    def _with_last_lines(self, message: str, submission_id: str) -> str:
        """Return ``message`` with what the driver printed last, as Ray has it."""
        tail = "\n".join(map(self._mask, self._ray.logs(submission_id).splitlines()))
        if tail and tail.splitlines()[-1] not in message:
            message = f"{message}\n{tail}"
        return message[:20_000]

    def _recover_claim(self, job: Job, submission_id: str) -> None:
        """Settle a claim whose dispatcher died before it wrote down whether Ray took the job."""
        taken = self._ray.job(submission_id) is not None
        with self._settler.settle(job) as current:
            if current is None or current.attempt.finished_at is not None:
                return
            if taken:
                current.note_submitted()
            elif current.job.state == JobState.RUNNING:
                # It has reported, so Ray had it once.
                current.lose(*self._why(None, submission_id))
            else:
                current.put_back("Its claim expired before Ray took it.")

    def _lose(self, job: Job, reason: ReasonCode, message: str) -> None:
        with self._settler.settle(job) as current:
            if current is None or JobState(current.job.state) not in ACTIVE:
                return
            current.lose(reason, message)
            log.warning("%s: %s: %s", job.id, current.job.state, message.splitlines()[0])
