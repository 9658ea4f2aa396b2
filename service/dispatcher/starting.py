"""Gives Ray the jobs of the queue that fit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from symadj.service import capacity, ray_processes
from symadj.service.capacity import AnyResources
from symadj.service.contract import layout
from symadj.service.contract.order import PLACE_VARIABLE, RunOrder
from symadj.service.contract.spec import AnySpec
from symadj.service.contract.states import JobState, ReasonCode
from symadj.service.contract.storage import Storage
from symadj.service.dispatcher.settling import ACTOR, Settler
from symadj.service.dispatcher.stored_specs import StoredSpecs
from symadj.service.dispatcher.tidying import Tidier
from symadj.service.lifecycle import attempts, uploads
from symadj.service.ray_jobs import Node, RayJobs, RayRefusedError
from symadj.service.settings import Settings
from symadj.service.store import Database, events, jobs
from symadj.service.store.tables import Job

__all__ = ["MAX_REFUSALS", "Starter"]

log = logging.getLogger("symadj.dispatcher")

# Submissions of one job that Ray may refuse, one after the other, before it is the job's fault.
MAX_REFUSALS = 10
# Jobs at the head of the queue that are looked at in a round.
WINDOW = 100
# A job for which the cluster has become too small lets others pass, and is looked at again after this time.
SECONDS_UNTIL_IT_MAY_HAVE_GROWN = 10.0
UNREADABLE = "This version of symadj can't read the job's stored spec: submit the job again."


class Starter:
    """Takes jobs from the queue: highest priority, then first come, as long as the next one fits."""

    def __init__(
        self,
        database: Database,
        ray: RayJobs,
        settings: Settings,
        tidier: Tidier,
        specs: StoredSpecs,
        wall: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._ray = ray
        self._settings = settings
        self._specs = specs
        self._tidier = tidier
        self._wall = wall
        self._settler = Settler(database, settings)
        # Waiting jobs and their last attempts, of which Ray has ended the run: that stays so.
        self._over: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Start what the cluster has room for."""
        with self._database.read_session() as session:
            waiting = self._waiting(session, jobs.active(session))
        if not waiting:
            return
        nodes = self._ray.nodes()
        if not nodes:
            return
        # Ray is asked before the queue is locked: others wait for the lock.
        self._over &= {(job.id, job.attempt) for job in waiting}
        not_over = {job.id for job in waiting if not self._previous_run_is_over(job)}
        while (chosen := self._claim_next(nodes, not_over)) is not None:
            if not self._submit(*chosen):
                return

    def _waiting(self, session: Session, active: Sequence[Job], passed_over: Collection[str] = ()) -> Sequence[Job]:
        """Return the head of the queue, without the jobs of owners who have as much of the cluster as they may."""
        most = self._settings.max_active_per_owner
        counts = Counter(job.owner for job in active)
        full = [owner for owner, count in counts.items() if most is not None and count >= most]
        return jobs.next_queued(session, limit=WINDOW, now=self._wall(), passed_over=passed_over, owners=full)

    def _previous_run_is_over(self, job: Job) -> bool:
        """Return whether Ray has ended the last attempt, and bring in what it left; else make Ray stop it."""
        if job.attempt == 0 or (job.id, job.attempt) in self._over:
            return True
        with self._database.read_session() as session:
            submission_id = jobs.attempt(session, job.id, job.attempt).submission_id
        ray_job = self._ray.job(submission_id)
        if ray_job is not None and not ray_job.ended:
            self._ray.stop(submission_id)
            return False
        self._tidier.deliver_all(job.id)
        self._over.add((job.id, job.attempt))
        return True

    def _claim_next(self, nodes: Sequence[Node], not_over: set[str]) -> tuple[attempts.Claim, AnySpec] | None:
        """Claim the next job that fits, or return None when no job may start now.

        What is active, whether the next one fits beside it, and the claim are one transaction, in which no other
        dispatcher does the same: two of them never give the same room away twice.
        """
        with self._database.session() as session:
            jobs.lock_queue(session)
            active = jobs.active(session)
            taken = self._taken(session, active)
            for waiting in self._waiting(session, active, not_over):
                job, spec = jobs.lock(session, waiting.id), self._specs.of(waiting)
                if job.state != JobState.QUEUED:
                    continue
                if job.attempt and (job.id, job.attempt) not in self._over:
                    continue  # it came to the head of the queue just now: Ray is asked in the next round
                if spec is None:
                    attempts.refuse(session, job, ReasonCode.INTERNAL, UNREADABLE, actor=ACTOR)
                    continue
                if not self._can_ever_fit(session, job, spec, nodes):
                    continue
                workers = capacity.choose_workers(spec.resources, spec.rows_to_share, nodes, taken)
                if workers is None:
                    return None  # first come, first served: no job overtakes another
                claim = attempts.claim(session, job, actor=ACTOR, workers=workers)
                if claim is not None:
                    return claim, spec
        return None

    def _taken(self, session: Session, active: Sequence[Job]) -> list[AnyResources]:
        """Return what the active jobs hold, each with the workers that its attempt was given."""
        tries = jobs.attempts_of(session, [job.id for job in active])
        specs = ((job, self._specs.of(job)) for job in active)
        return [
            spec.resources.model_copy(update={"workers": tries[job.id][-1].workers})
            for job, spec in specs
            if spec is not None
        ]

    def _can_ever_fit(self, session: Session, job: Job, spec: AnySpec, nodes: Sequence[Node]) -> bool:
        """Return whether the empty cluster has room; else refuse the job, or let it wait where that may change."""
        lack = capacity.never_fits(spec.resources, nodes, spec.rows_to_share)
        if lack is None:
            return True
        if job.started_at is None and not self._settings.cluster_may_grow:
            attempts.refuse(session, job, ReasonCode.CANNOT_FIT, lack, actor=ACTOR)
        else:
            # It ran once, or the cluster may grow: it waits, and no other job waits for it.
            job.not_before = self._wall() + timedelta(seconds=SECONDS_UNTIL_IT_MAY_HAVE_GROWN)
        return False

    def _submit(self, claim: attempts.Claim, spec: AnySpec) -> bool:
        """Give a claimed job to Ray; return False where the storage takes no order, and so none of another job.

        Raises:
            RayUnreachableError: no answer: the claim expires, and whether Ray has the job decides.
            RayRefusedError: Ray will not start it; the job is put back.
        """
        storage = self._settings.resolved_storage()
        order = self._order(claim, spec, storage)
        place = layout.order_file(order.job_id, order.attempt)
        try:
            storage.write(place, order.model_dump_json().encode(), private=True)
            token = layout.token_file(order.job_id, order.attempt)
            storage.write(token, claim.token.encode(), private=True)
        except OSError as error:
            log.warning("%s: its order can't be written: %s", claim.job.id, error)
            self._put_back(claim, f"The storage can't be written: {error}", ReasonCode.INTERNAL)
            return False
        try:
            self._ray.submit(
                claim.attempt.submission_id,
                ray_processes.python(self._settings),
                "symadj.workers.run",
                ray_processes.environment({PLACE_VARIABLE: storage.name(place)}),
                {"symadj_job": claim.job.id, "symadj_name": claim.job.name},
            )
        except RayRefusedError as error:
            self._refused(claim, str(error))
            raise
        # Where Ray did not answer, nothing is written: the claim expires, and whether Ray has the job decides.
        with self._settler.settle(claim.job, lease_token=claim.attempt.lease_token) as current:
            if current is not None:
                current.note_submitted()
                message = f"Ray job {current.attempt.submission_id} was submitted."
                events.append(current.session, current.job, actor=ACTOR, name="submitted", message=message)
        log.info("%s: attempt %d given to Ray", claim.job.id, claim.attempt.number)
        return True

    def _order(self, claim: attempts.Claim, spec: AnySpec, storage: Storage) -> RunOrder:
        settings = self._settings
        with self._database.read_session() as session:
            sent = uploads.files_of(session, spec, storage)
        return RunOrder(
            job_id=claim.job.id,
            attempt=claim.attempt.number,
            api_url=settings.api_url,
            storage=storage.location,
            workers=claim.attempt.workers,
            checkpoints_asked=claim.job.checkpoints_asked,
            data_roots=settings.resolved_data_roots(),
            uploads=sent,
            data_cache=None if settings.data_cache is None else str(settings.data_cache.resolve()),
            spool=None if settings.spool is None else str(settings.spool.resolve()),
            storage_patience_seconds=settings.storage_patience_s,
            flush_timeout_seconds=settings.flush_timeout_s,
            data_timeout_seconds=settings.data_timeout_s,
            microbatch_halvings=claim.out_of_memory,
            spec=spec,
        )

    def _refused(self, claim: attempts.Claim, answer: str) -> None:
        """Settle a job that Ray would not start: often Ray is only not ready yet."""
        refusals = self._put_back(claim, f"Ray does not take it now: {answer}", ReasonCode.CLUSTER_LOST)
        if refusals < MAX_REFUSALS:
            return
        with self._settler.settle(claim.job) as current:
            if current is not None:
                message = f"Ray refused the job {refusals} times. {answer}"
                attempts.refuse(current.session, current.job, ReasonCode.CLUSTER_LOST, message, actor=ACTOR)

    def _put_back(self, claim: attempts.Claim, message: str, reason: ReasonCode) -> int:
        """Put a claimed job back into the queue; return how often that was done for this reason."""
        with self._settler.settle(claim.job, lease_token=claim.attempt.lease_token) as current:
            if current is None:
                return 0
            count = jobs.not_started(current.session, current.job.id, reason)
            pause = attempts.pause_after(count, self._settings.retry_seconds)
            current.put_back(message, pause_seconds=pause, reason=reason)
            return count
