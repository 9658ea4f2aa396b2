"""Brings in what dead runs left, and removes what is no longer needed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from symadj.service import spools
from symadj.service.contract import layout
from symadj.service.contract.states import ACTIVE, JobState
from symadj.service.contract.storage import StorageError
from symadj.service.ray_jobs import RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs

__all__ = ["Sweeper"]

log = logging.getLogger("symadj.dispatcher")

# Between two searches for what only a crash leaves behind.
RARE_SECONDS = 30.0
# Time in which a run has to end after its outcome; and for how long it is looked after.
LINGER_SECONDS = 60.0
FORGET_SECONDS = 3600.0


class Sweeper:
    """Looks at the spools on this machine, folders of jobs whose deletion was cut off, and runs that do not end."""

    def __init__(self, database: Database, ray: RayJobs, settings: Settings, clock: Callable[[], float]) -> None:
        self._database = database
        self._ray = ray
        self._settings = settings
        self._clock = clock
        self._next_rare_look = clock()
        # Attempts that ended not long ago, whose Ray job is gone too.
        self._gone: set[str] = set()

    def sweep(self) -> None:
        """Tidy up once."""
        for job_id in spools.left_over(self._settings.spool):
            self._sweep_spools_of(job_id)
        if self._clock() >= self._next_rare_look:
            self._next_rare_look = self._clock() + RARE_SECONDS
            try:
                self._sweep_folders()
            except StorageError as error:
                log.warning("what deletions left is not looked for now: %s", error)
            self._stop_lingering_runs()

    def deliver_all(self, job_id: str) -> None:
        """Bring in the spools of all attempts of a job, whose runs are over."""
        for number in spools.attempts(self._settings.spool, job_id):
            self._deliver(job_id, number)

    def _deliver(self, job_id: str, attempt: int) -> None:
        retry_seconds = self._settings.retry_seconds
        spools.deliver(self._database, self._settings.spool, job_id, attempt, retry_seconds=retry_seconds)
        spools.remove(self._settings.spool, job_id, attempt)

    def _sweep_spools_of(self, job_id: str) -> None:
        with self._database.read_session() as session:
            job = jobs.find(session, job_id)
            known = {attempt.number: attempt.submission_id for attempt in jobs.attempts(session, job_id)}
        if job is None:
            spools.remove(self._settings.spool, job_id)
            return
        for number in spools.attempts(self._settings.spool, job_id):
            if number == job.attempt and JobState(job.state) in ACTIVE:
                continue  # its own run delivers them
            if number not in known:
                spools.remove(self._settings.spool, job_id, number)
                continue
            ray_job = self._ray.job(known[number])
            if ray_job is None or ray_job.ended:  # else a rank may still be delivering
                self._deliver(job_id, number)

    def _sweep_folders(self) -> None:
        """Settle the folders that a deletion set aside and did not remove."""
        storage = self._settings.resolved_storage()
        for job_id in storage.all_set_aside():
            # A deletion locks the job's row: once we hold the lock, it has either committed or failed.
            with self._database.session() as session:
                job = jobs.find_locked(session, job_id)
                if job is not None:
                    log.warning("%s: its deletion was cut off; its folder is put back", job_id)
                    storage.put_back(layout.job_folder(job_id))
            if job is None:
                storage.discard(layout.job_folder(job_id))

    def _stop_lingering_runs(self) -> None:
        """Stop the runs whose attempt is over and whose driver does not end by itself."""
        now = datetime.now(UTC)
        with self._database.read_session() as session:
            finished = jobs.attempts_finished_between(
                session, now - timedelta(seconds=FORGET_SECONDS), now - timedelta(seconds=LINGER_SECONDS)
            )
        self._gone &= {attempt.submission_id for attempt in finished}
        for attempt in finished:
            if attempt.submission_id in self._gone:
                continue
            ray_job = self._ray.job(attempt.submission_id)
            if ray_job is None or ray_job.ended:
                self._gone.add(attempt.submission_id)
            else:
                log.warning("%s: attempt %d is over and its run is not: Ray stops it", attempt.job_id, attempt.number)
                self._ray.stop(attempt.submission_id)
