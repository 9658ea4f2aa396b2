"""Brings in what dead runs left, and removes what is no longer needed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from symadj.service import spools
from symadj.service.contract import layout
from symadj.service.contract.states import ACTIVE, JobState
from symadj.service.contract.storage import StorageError
from symadj.service.identifiers import made_at
from symadj.service.lifecycle import requests
from symadj.service.ray_jobs import RayJobs
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs, retention, uploads
from symadj.service.store.tables import Job, Upload

__all__ = ["Tidier"]

log = logging.getLogger("symadj.dispatcher")

# Between two searches for what only a crash leaves behind.
RARE_SECONDS = 30.0
# Between two searches for telemetry that is old enough to go; jobs of which a piece goes a round, while there are any.
RETENTION_SECONDS = 600.0
RETENTION_JOBS = 10
# Time in which a run has to end after its outcome, from when it was first seen; how far back the first search goes.
LINGER_SECONDS = 60.0
FIRST_SEARCH = timedelta(hours=1)
# After which a file that began to come in is not awaited any more.
LONGEST_UPLOAD = timedelta(days=1)
# Of two searches: an attempt's end may be committed some time after the time that it has.
OVERLAP = timedelta(minutes=1)


class Tidier:
    """Looks at the spools on this machine, what cut off deletions and uploads left, runs that do not end, and telemetry
    that is old enough to go."""

    def __init__(
        self,
        database: Database,
        ray: RayJobs,
        settings: Settings,
        clock: Callable[[], float],
        wall: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._ray = ray
        self._settings = settings
        self._clock, self._wall = clock, wall
        self._next_rare_look = self._next_retention = clock()
        self._searched_until = wall() - FIRST_SEARCH
        # Jobs whose telemetry can't be read, until this dispatcher is started anew.
        self._unreadable: set[str] = set()
        # Attempts that are over: when each was first seen to be, by our own clock, if its run is not over yet.
        self._lingering: dict[tuple[str, int, str], float] = {}
        self._gone: set[tuple[str, int, str]] = set()

    def tidy(self) -> None:
        """Tidy up once."""
        for job_id in spools.left_over(self._settings.spool):
            self._settle_spools_of(job_id)
        if self._clock() >= self._next_rare_look:
            self._next_rare_look = self._clock() + RARE_SECONDS
            requests.delete_telemetry(self._database)
            try:
                self._settle_folders()
                self._remove_cut_off_uploads()
            except StorageError as error:
                log.warning("what deletions and uploads left is not looked for now: %s", error)
            self._stop_lingering_runs()
        if self._clock() >= self._next_retention:
            self._retain()

    def deliver_all(self, job_id: str) -> None:
        """Bring in the spools of all attempts of a job, whose runs are over."""
        for number in spools.attempts(self._settings.spool, job_id):
            self._deliver(job_id, number)

    def _deliver(self, job_id: str, attempt: int) -> None:
        retry_seconds = self._settings.retry_seconds
        spools.deliver(self._database, self._settings.spool, job_id, attempt, retry_seconds=retry_seconds)
        spools.remove(self._settings.spool, job_id, attempt)

    def _settle_spools_of(self, job_id: str) -> None:
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

    def _settle_folders(self) -> None:
        """Settle the folders that a deletion set aside and did not remove."""
        storage = self._settings.resolved_storage()
        for folder in storage.all_set_aside():
            # A deletion locks the row: once we hold the lock, it has either committed or failed.
            with self._database.session() as session:
                row = _row_of(session, folder)
                if row is not None:
                    log.warning("%s: its deletion was cut off; its folder is put back", folder)
                    storage.put_back(folder)
            if row is None:
                storage.discard(folder)

    def _remove_cut_off_uploads(self) -> None:
        """Remove what came in of files whose API died before their job, or their upload, was stored."""
        storage = self._settings.resolved_storage()
        for folder in storage.children(layout.UPLOADS):
            if self._wall() - made_at(folder) < LONGEST_UPLOAD:
                continue
            with self._database.session() as session:
                stored = _row_of(session, folder) is not None
            if not stored:
                log.warning("%s: its submission was cut off; what came of its files is removed", folder)
                storage.remove(folder)
            storage.remove_file(layout.upload_mark(folder))

    def _retain(self) -> None:
        """Thin or remove a piece of the telemetry of some jobs that ended long enough ago."""
        settings = self._settings
        keep, thin = settings.telemetry_keep_days, settings.telemetry_thin_days
        policy = retention.Policy(
            keep=None if keep is None else timedelta(days=keep),
            thin=None if thin is None else timedelta(days=thin),
            thin_records=settings.telemetry_thin_records,
            keep_last=settings.telemetry_keep_last,
        )
        with self._database.read_session() as session:
            due = retention.due(session, policy, now=self._wall(), most=RETENTION_JOBS, besides=self._unreadable)
        for job_id, to in due:
            try:
                with self._database.session() as session:
                    job = jobs.find_locked(session, job_id)
                    if job is not None:
                        (retention.remove if to == retention.REMOVED else retention.thin_some)(session, job, policy)
            except ValueError as error:  # what is stored is damaged; the others' turn must come all the same
                log.warning("the telemetry of %s stays as it is: %s", job_id, error)
                self._unreadable.add(job_id)
        if not due:
            self._next_retention = self._clock() + RETENTION_SECONDS

    def _stop_lingering_runs(self) -> None:
        """Stop the runs whose attempt is over and whose driver does not end by itself."""
        now = self._wall()
        # Whatever the wall clock has jumped by since the last search: from where both agree.
        since = min(self._searched_until, now) - OVERLAP
        with self._database.read_session() as session:
            finished = {
                (attempt.job_id, attempt.number, attempt.submission_id)
                for attempt in jobs.attempts_finished_since(session, since)
            }
        self._searched_until = now
        self._gone &= finished
        for attempt in finished - self._gone:
            self._lingering.setdefault(attempt, self._clock())
        for attempt, first_seen in list(self._lingering.items()):
            job_id, number, submission_id = attempt
            ray_job = self._ray.job(submission_id)
            if ray_job is None or ray_job.ended:
                del self._lingering[attempt]
                self._gone.add(attempt)
            elif self._clock() - first_seen >= LINGER_SECONDS:
                log.warning("%s: attempt %d is over and its run is not: Ray stops it", job_id, number)
                self._ray.stop(submission_id)


def _row_of(session: Session, folder: str) -> Job | Upload | None:
    """Return the job or the upload that a folder at the root of the storage belongs to, its row locked, or None."""
    if layout.upload_of(folder) is not None:
        return uploads.find_locked(session, folder)
    return jobs.find_locked(session, folder)
