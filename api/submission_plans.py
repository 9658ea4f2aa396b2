"""Plans of jobs in the queue: made after the answer to their submission, so that it neither waits for them nor fails.

A job's own run plans again before its first step, and that plan takes the place of this one. So what can't be planned
at once, or would keep others waiting, is left to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from anyio.to_thread import run_sync

from symadj.api.cluster_view import ClusterView
from symadj.api.flow_process import FlowProcess
from symadj.service import capacity
from symadj.service.contract.flow_question import FlowOutcome, PlanQuestion
from symadj.service.contract.plan import Plan
from symadj.service.contract.records import PlanRecord
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import JobState
from symadj.service.errors import SymadjError
from symadj.service.store import Database, events, jobs, plans

__all__ = ["SubmissionPlans"]

log = logging.getLogger("symadj.api")

# Of the jobs submitted meanwhile, the newest: of thousands, the others have the plan of their run alone.
_WAITING = 8
# Without a submission, before the first plan; however many come, no longer than this.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
# A plan that the service made, and no attempt.
_BEFORE_ANY_ATTEMPT = 0


class SubmissionPlans:
    """Plans the newest jobs, one after the other, while nobody else asks the process that computes with flows."""

    def __init__(self, database: Database, cluster: ClusterView, flows: FlowProcess) -> None:
        self._database, self._cluster, self._flows = database, cluster, flows
        self._waiting: deque[str] = deque(maxlen=_WAITING)
        self._loop = asyncio.get_running_loop()
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._work())

    def offer(self, job_ids: Iterable[str]) -> None:
        """Plan jobs that were submitted, later; may be called by any thread."""
        self._loop.call_soon_threadsafe(self._put, [*job_ids])

    async def close(self) -> None:
        """Plan no more."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _put(self, job_ids: Sequence[str]) -> None:
        self._waiting.extend(job_ids)
        self._more.set()

    async def _work(self) -> None:
        while await self._more.wait():
            await self._pause()
            while self._waiting:
                job_id = self._waiting.popleft()
                try:
                    await self._plan(job_id)
                except SymadjError as error:
                    log.info("job %s has no plan before its run: %s", job_id, error)
                except Exception:
                    log.exception("job %s has no plan before its run", job_id)

    async def _pause(self) -> None:
        """Return when nothing has been submitted for a moment: who submits many jobs needs the cores for that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_PAUSE_SECONDS):
                while self._more.is_set():
                    self._more.clear()
                    await asyncio.sleep(_PAUSE_SECONDS)
        self._more.clear()

    async def _plan(self, job_id: str) -> None:
        spec = await run_sync(self._spec_to_plan, job_id)
        # What is computed for a user comes first.
        if spec is None or self._flows.busy:
            return
        nodes = await run_sync(self._cluster.nodes)
        question = PlanQuestion(
            spec=spec.stored(),
            columns=spec.data.dim,
            available_bytes=None if nodes is None else capacity.most_memory(spec.resources, nodes),
            all_gradients=False,
        )
        answer, content = await self._flows.ask(question)
        if answer.outcome is FlowOutcome.DONE:
            await run_sync(self._store, job_id, Plan.model_validate_json(content))
        else:
            log.info("job %s has no plan before its run: %s", job_id, answer.message)

    def _spec_to_plan(self, job_id: str) -> JobSpec | None:
        """Return the spec of a job that waits, None where its data would have to be read, which may be gigabytes."""
        with self._database.read_session() as session:
            job = jobs.get(session, job_id)
            if job.state != JobState.QUEUED:
                return None
            spec = JobSpec.of_stored(job.spec)
        return None if spec.data.dim is None or spec.flow.needs_images else spec

    def _store(self, job_id: str, plan: Plan) -> None:
        with self._database.session() as session:
            job = jobs.lock(session, job_id)
            if plans.of_job(session, job_id) is not None:
                return
            plans.put(session, job, _BEFORE_ANY_ATTEMPT, PlanRecord(time=datetime.now(UTC), plan=plan))
            if plan.over_budget is not None and job.state == JobState.QUEUED:
                least = plan.chosen.peaks[0].worker_bytes
                figures = {"planned_bytes": least, "memory_budget_bytes": plan.memory_budget}
                events.append(
                    session, job, actor="api", name="memory_budget_too_small", message=plan.over_budget, data=figures
                )
