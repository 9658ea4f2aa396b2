"""Gives queued jobs to Ray when it has room for them, and notices when a run ends without a word.

``python -m service.dispatcher`` runs one. It holds nothing that the store does not hold: killed at any moment, the next
one goes on from there.
"""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import FrameType

from pydantic import ValidationError

from service import capacity, lifecycle, spools
from service.ray_jobs import RayJob, RayJobs, RayRefused, RayUnreachable
from service.records import RunOrder
from service.settings import Settings
from service.spec import JobSpec
from service.states import ACTIVE, TERMINAL, JobState, ReasonCode
from service.store import Database, events, jobs
from service.store.tables import Job

__all__ = ["Dispatcher", "main"]

log = logging.getLogger("symadj.dispatcher")

ACTOR = "dispatcher"
# Time from the claim of a job to Ray's answer; a claim older than that has lost its dispatcher.
LEASE_SECONDS = 60.0
# Submissions of one job that Ray may refuse before it is the job's fault.
MAX_REFUSALS = 10
UNREADABLE = "This version of symadj can't read the job's stored spec: submit the job again."


class Dispatcher:
    """One dispatcher. Call :meth:`round` again and again."""

    def __init__(self, database: Database, ray: RayJobs, settings: Settings) -> None:
        self._database = database
        self._ray = ray
        self._settings = settings

    def round(self) -> None:
        """Look once at every active job, then start what the cluster has room for.

        Raises:
            RayUnreachable: Ray does not answer; nothing is lost, the next round will see.
            RayRefused: Ray says no; likewise.
        """
        self._watch()
        self._start()
        self._sweep_spools()

    # ------------------------------------------------------------------------------------------- what is running

    def _watch(self) -> None:
        with self._database.read_session() as session:
            watched = [(job, jobs.attempt(session, job.id, job.attempt)) for job in jobs.active(session)]
        now = datetime.now(UTC)
        for job, attempt in watched:
            if attempt.submitted_at is None:
                if attempt.lease_expires_at is not None and attempt.lease_expires_at < now:
                    self._recover_claim(job, attempt.submission_id)
                continue
            ray_job = self._ray.job(attempt.submission_id)
            if ray_job is None or ray_job.ended:
                # What the run could not send itself: its own word on its end, perhaps.
                spools.deliver(self._database, self._settings.spool, job.id, attempt.number)
                self._fail(job, *self._why(ray_job, attempt.submission_id))
            elif job.cancel_requested_at is not None:
                grace = self._settings.cancel_grace_seconds if job.state == JobState.RUNNING else 0.0
                if job.cancel_requested_at + timedelta(seconds=grace) <= now:
                    log.info("%s does not stop by itself: Ray stops it", job.id)
                    self._ray.stop(attempt.submission_id)

    def _why(self, ray_job: RayJob | None, submission_id: str) -> tuple[ReasonCode, str]:
        """Return why a run that ended without an outcome did so."""
        if ray_job is None:
            return ReasonCode.CLUSTER_LOST, "Ray was restarted and knows nothing of this run any more."
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
            if current.attempt != job.attempt or JobState(current.state) not in ACTIVE:
                return
            if taken:
                jobs.attempt(session, job.id, job.attempt).submitted_at = datetime.now(UTC)
            elif current.state == JobState.STARTING:
                lifecycle.put_back(session, current, actor=ACTOR, message="Its claim expired before Ray took it.")
            else:
                # It has reported, so Ray had it once.
                lifecycle.fail(session, current, *self._why(None, submission_id), actor=ACTOR)

    def _fail(self, job: Job, reason: ReasonCode, message: str) -> None:
        with self._database.session() as session:
            current = jobs.lock(session, job.id)
            if current.attempt == job.attempt and JobState(current.state) in ACTIVE:
                lifecycle.fail(session, current, reason, message, actor=ACTOR)
                log.warning("%s: %s: %s", job.id, current.state, message.splitlines()[0])

    # ------------------------------------------------------------------------------------------------ what waits

    def _start(self) -> None:
        with self._database.read_session() as session:
            waiting = jobs.next_queued(session, limit=100)
            active = jobs.active(session)
        if not waiting:
            return
        taken = [spec.resources for spec in map(_spec, active) if spec is not None]
        nodes = self._ray.nodes()
        if not nodes:
            return
        for job in waiting:
            spec = _spec(job)
            if spec is None:
                self._refuse(job, ReasonCode.INTERNAL, UNREADABLE)
                continue
            wanted = spec.resources
            lack = capacity.never_fits(wanted, nodes)
            if lack is not None and not self._settings.cluster_may_grow:
                self._refuse(job, ReasonCode.CANNOT_FIT, lack)
            elif not capacity.fits_now(wanted, nodes, taken):
                return  # first come, first served: nobody overtakes
            elif self._submit(job, spec):
                taken.append(wanted)

    def _refuse(self, job: Job, reason: ReasonCode, message: str) -> None:
        with self._database.session() as session:
            job = jobs.lock(session, job.id)
            if job.state == JobState.QUEUED:
                lifecycle.fail(session, job, reason, message, actor=ACTOR)

    def _refused(self, job: Job, words: str) -> None:
        """Settle a job that Ray would not start: often Ray is only not ready yet."""
        with self._database.session() as session:
            current = jobs.lock(session, job.id)
            if current.attempt != job.attempt or current.state != JobState.STARTING:
                return
            if current.attempt < MAX_REFUSALS:
                lifecycle.put_back(session, current, actor=ACTOR, message=f"Ray does not take it now: {words}")
            else:
                message = f"Ray refused the job {current.attempt} times. {words}"
                lifecycle.fail(session, current, ReasonCode.CLUSTER_LOST, message, actor=ACTOR)

    def _submit(self, job: Job, spec: JobSpec) -> bool:
        with self._database.session() as session:
            claim = lifecycle.claim(session, jobs.lock(session, job.id), actor=ACTOR, lease_seconds=LEASE_SECONDS)
        if claim is None:
            return False
        order = RunOrder(
            job_id=claim.job.id,
            attempt=claim.attempt.number,
            api_url=self._settings.api_url,
            token=claim.token,
            storage=str(self._settings.resolved_storage()),
            spec=spec,
        )
        # A folder of the user's named `workers` or `service` must not be taken for ours.
        environment = {
            "SYMADJ_RUN_ORDER": order.model_dump_json(),
            "SYMADJ_DATA_ROOTS": self._settings.resolved_data_roots(),
            "PYTHONSAFEPATH": "1",
        }
        if self._settings.spool is not None:
            environment["SYMADJ_SPOOL_DIR"] = str(self._settings.spool.resolve())
        try:
            self._ray.submit(
                claim.attempt.submission_id,
                f"{shlex.quote(self._settings.worker_python)} -m workers.run",
                environment,
                {"symadj_job": claim.job.id, "symadj_name": claim.job.name},
            )
        except RayRefused as error:
            self._refused(claim.job, str(error))
            raise
        # Where Ray did not answer, nothing is written: the claim expires, and whether Ray has the job decides.
        with self._database.session() as session:
            job = jobs.lock(session, claim.job.id)
            attempt = jobs.attempt(session, job.id, claim.attempt.number)
            if attempt.lease_token == claim.attempt.lease_token:
                attempt.submitted_at = datetime.now(UTC)
                attempt.lease_token = attempt.lease_expires_at = None
                events.append(
                    session,
                    job,
                    actor=ACTOR,
                    name="submitted",
                    message=f"Ray job {attempt.submission_id} was submitted.",
                )
        log.info("%s: attempt %d given to Ray", job.id, claim.attempt.number)
        return True

    # ----------------------------------------------------------------------------------------- what dead runs left

    def _sweep_spools(self) -> None:
        """Deliver, then remove, what the runs of ended jobs left in their spools on this machine."""
        for job_id in spools.left_over(self._settings.spool):
            with self._database.read_session() as session:
                job = jobs.find(session, job_id)
                last = jobs.attempt(session, job_id, job.attempt) if job is not None and job.attempt else None
            if job is not None and JobState(job.state) not in TERMINAL:
                continue
            if last is not None:
                ray_job = self._ray.job(last.submission_id)
                if ray_job is not None and not ray_job.ended:
                    continue  # a rank may still be delivering
                spools.deliver(self._database, self._settings.spool, job_id, last.number)
            spools.remove(self._settings.spool, job_id)


def _spec(job: Job) -> JobSpec | None:
    """Return a stored job's spec, None if this version can't read it: that is this job's trouble, not the queue's."""
    try:
        return JobSpec.model_validate(job.spec)
    except ValidationError:
        log.exception("%s: its stored spec can't be read", job.id)
        return None


def main() -> None:
    """Run a dispatcher until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    settings = Settings()
    database = Database(settings.resolved_store_url())
    database.migrate()
    ray = RayJobs(settings.ray_dashboard, settings.ray_token.get_secret_value() if settings.ray_token else None)
    dispatcher = Dispatcher(database, ray, settings)
    unreachable = False
    while not stopping.is_set():
        try:
            dispatcher.round()
        except (RayUnreachable, RayRefused) as error:
            if not unreachable:
                log.warning("waiting for Ray: %s", error)
            unreachable = True
            stopping.wait(5 * settings.poll_seconds)
        except Exception:
            log.exception("a round failed; the next one starts anew")
        else:
            if unreachable:
                log.info("Ray answers again")
            unreachable = False
        stopping.wait(settings.poll_seconds)
    ray.close()
    database.close()


if __name__ == "__main__":
    main()
