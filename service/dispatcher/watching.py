"""Looks after the jobs that hold a part of the cluster."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

from symadj.service import capacity, spools
from symadj.service.contract.states import ACTIVE, JobState, ReasonCode
from symadj.service.dispatcher.heartbeats import Heartbeats
from symadj.service.dispatcher.stored_spec import stored_spec
from symadj.service.lifecycle import attempts
from symadj.service.ray_jobs import RayJob, RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs, sources
from symadj.service.store.tables import Attempt, IngestSource, Job

__all__ = ["ACTOR", "Watcher"]

log = logging.getLogger("symadj.dispatcher")

ACTOR = "dispatcher"


@dataclass(frozen=True)
class _Run:
    """An active job, its attempts, and what was heard of the newest one."""

    job: Job
    attempts: Sequence[Attempt]
    sources: Sequence[IngestSource]

    @property
    def attempt(self) -> Attempt:
        return self.attempts[-1]

    @property
    def training(self) -> bool:
        """Whether a rank has said a word: who has not can't hear of a wish to stop."""
        return any(source.source != "driver" and source.next_seq > 1 for source in self.sources)

    def seconds(self, now: datetime) -> float:
        """Return how long all attempts took together, from when Ray had them."""
        spans = ((a.submitted_at, a.finished_at or now) for a in self.attempts)
        return sum((until - since).total_seconds() for since, until in spans if since is not None)


class Watcher:
    """Notices runs that ended without a word, that fell silent, that do not stop, or whose time is over."""

    def __init__(self, database: Database, ray: RayJobs, settings: Settings, silence: Heartbeats) -> None:
        self._database = database
        self._ray = ray
        self._settings = settings
        self._silence = silence
        # As for Ray: a proxy of the environment has no business here.
        self._api = httpx.Client(base_url=settings.api_url, timeout=5.0, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def look(self) -> None:
        """Look once at every active job."""
        now = datetime.now(UTC)
        alive = [run for run in self._active() if self._look_at(run, now)]
        self._end_silent_ones(alive)

    def _active(self) -> list[_Run]:
        with self._database.read_session() as session:
            active = jobs.active(session)
            attempts = jobs.attempts_of(session, [job.id for job in active])
            heard: dict[str, list[IngestSource]] = {job.id: [] for job in active}
            for source in sources.of_attempts(session, [(job.id, job.attempt) for job in active]):
                heard[source.job_id].append(source)
        return [_Run(job, attempts[job.id], heard[job.id]) for job in active]

    def _look_at(self, run: _Run, now: datetime) -> bool:
        """Look at one job; return whether Ray has its run and the run lives."""
        job, attempt = run.job, run.attempt
        if attempt.submitted_at is None:
            if attempt.lease_expires_at is None or attempt.lease_expires_at < now:
                self._recover_claim(job, attempt.submission_id)
            return False
        ray_job = self._ray.job(attempt.submission_id)
        if ray_job is None or ray_job.ended:
            # What the run could not send itself: its own word on its end, perhaps.
            retry_seconds = self._settings.retry_seconds
            spools.deliver(self._database, self._settings.spool, job.id, attempt.number, retry_seconds=retry_seconds)
            self._lose(job, *self._why(ray_job, attempt.submission_id))
            return False
        self._heed_timeout(run, now)
        if job.stop_requested_at is not None:
            grace = self._settings.cancel_grace_seconds if run.training else 0.0
            if job.stop_requested_at + timedelta(seconds=grace) <= now:
                log.info("%s does not stop by itself: Ray stops it", job.id)
                self._ray.stop(attempt.submission_id)
        return not self._lost_its_place(run)

    def _lost_its_place(self, run: _Run) -> bool:
        """Put a job back whose workers have not started and which the cluster can't hold any more; return whether.

        A node died between the claim and their start, or had died before and Ray noticed late. Ray would wait for it to
        come back; in the queue an elastic job finds a smaller size, and others may pass one that is not.
        """
        job, spec = run.job, stored_spec(run.job)
        if job.state != JobState.STARTING or job.stop_requested is not None or spec is None:
            return False
        if capacity.holds(spec.resources, run.attempt.workers, self._ray.nodes()):
            return False
        with self._database.session() as session:
            current = jobs.lock(session, job.id)
            if current.attempt != job.attempt or current.state != JobState.STARTING:
                return False
            message = f"The cluster has become too small for its {run.attempt.workers} workers."
            attempts.put_back(session, current, actor=ACTOR, message=message)
        log.warning("%s: %s", job.id, message)
        self._ray.stop(run.attempt.submission_id)
        return True

    def _heed_timeout(self, run: _Run, now: datetime) -> None:
        minutes = run.job.spec.get("timeout_minutes")
        if minutes is None or run.job.stop_requested is not None or run.seconds(now) < 60.0 * minutes:
            return
        with self._database.session() as session:
            current = jobs.lock(session, run.job.id)
            if current.attempt == run.job.attempt:
                message = f"The attempts took {run.seconds(now) / 60:.1f} minutes of timeout_minutes {minutes:g}."
                attempts.ask_timeout(session, current, actor=ACTOR, message=message)

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
            if not self._api_answers():
                self._silence.start_afresh()
                return
            self._check_store_is_not_locked()
        given_up = set()
        for key, seconds in self._silence.look(seen).items():
            run, source_name = of[key]
            if run.job.id in given_up:
                continue
            given_up.add(run.job.id)
            log.warning("%s: %s is silent: Ray stops the run", run.job.id, source_name)
            message = f"{source_name} was not heard of for {seconds:.0f} s, while the API and the store answered."
            # First: a store that can't be written to (its disk is full) takes no word of any run, and none is to end.
            self._lose(run.job, ReasonCode.WORKER_LOST, message)
            self._ray.stop(run.attempt.submission_id)

    def _check_store_is_not_locked(self) -> None:
        """Raise what the store raises if its file is locked: SQLite answers questions then, and takes nothing in."""
        with self._database.session():
            pass

    def _api_answers(self) -> bool:
        try:
            return self._api.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    # -------------------------------------------------------------------------------------------- how runs end

    def _why(self, ray_job: RayJob | None, submission_id: str) -> tuple[ReasonCode, str]:
        """Return why a run that ended without an outcome did so."""
        if ray_job is None:
            return ReasonCode.CLUSTER_LOST, "Ray was restarted and knows nothing of this run any more."
        if ray_job.supervisor_lost:
            return ReasonCode.CLUSTER_LOST, f"Ray lost the run's driver, with its node perhaps. {ray_job.message}"
        if ray_job.killed:
            return ReasonCode.WORKER_LOST, (
                "The run's driver was killed from outside (by the system, if memory ran out: then run fewer jobs at "
                f"once, or take more memory). Ray: {ray_job.status}, exit code {ray_job.exit_code}."
            )
        words = f"The run ended without an outcome (Ray: {ray_job.status}). {ray_job.message}".strip()
        tail = self._ray.logs(submission_id)
        if tail and tail.splitlines()[-1] not in words:
            words = f"{words}\n{tail}"
        return ReasonCode.INTERNAL, words[:20_000]

    def _recover_claim(self, job: Job, submission_id: str) -> None:
        """Settle a claim whose dispatcher died before it wrote down whether Ray took the job."""
        taken = self._ray.job(submission_id) is not None
        with self._database.session() as session:
            current = jobs.lock(session, job.id)
            attempt = jobs.attempt(session, job.id, job.attempt)
            if current.attempt != job.attempt or attempt.finished_at is not None:
                return
            if taken:
                attempt.submitted_at = datetime.now(UTC)
                attempt.lease_token = attempt.lease_expires_at = None
            elif current.state == JobState.RUNNING:
                # It has reported, so Ray had it once.
                reason, message = self._why(None, submission_id)
                retry_seconds = self._settings.retry_seconds
                attempts.lose(session, current, reason, message, actor=ACTOR, retry_seconds=retry_seconds)
            else:
                attempts.put_back(session, current, actor=ACTOR, message="Its claim expired before Ray took it.")

    def _lose(self, job: Job, reason: ReasonCode, message: str) -> None:
        with self._database.session() as session:
            current = jobs.lock(session, job.id)
            if current.attempt != job.attempt or JobState(current.state) not in ACTIVE:
                return
            retry_seconds = self._settings.retry_seconds
            attempts.lose(session, current, reason, message, actor=ACTOR, retry_seconds=retry_seconds)
            log.warning("%s: %s: %s", job.id, current.state, message.splitlines()[0])
