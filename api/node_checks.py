"""Checks of specs by processes on Ray's nodes, where the data are."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import anyio
from anyio.to_thread import run_sync

from symadj.service import ray_processes
from symadj.service.contract import layout
from symadj.service.contract.flow_question import CheckQuestion, FlowAnswer, NodeCheck, PlanQuestion, unframe
from symadj.service.identifiers import new_job_id
from symadj.service.ray_jobs import NodeInUse, RayJobs, RayRefusedError, RayUnreachableError
from symadj.service.settings import Settings

__all__ = ["NodeChecks", "NotLookedAtError"]

# Checks are started by name: this room does not import the workers'.
_MODULE = "symadj.workers.node_check"
# That are under way; each takes a process's memory of a node that may have a run on it.
_AT_ONCE = 4
# For Ray to answer one request, which is waited for when the time of a check is over, too.
_RAY_SECONDS = 10.0
# Between two looks whether there is an answer.
_PAUSE_SECONDS = 0.25


class NotLookedAtError(Exception):
    """The data were not looked at, which says nothing about them; the message says why."""


class NodeChecks:
    """Has questions answered by Ray jobs, each of which ends with its question."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._under_way = 0

    async def ask(
        self, question: CheckQuestion | PlanQuestion, nodes: Sequence[NodeInUse] | None
    ) -> tuple[FlowAnswer, bytes]:
        """Return what a process on that node for workers answers which has the most room, within ``check_seconds``.

        Raises:
            NotLookedAtError: no node for workers is there, Ray or the storage does not answer, or it takes too long.
        """
        for_workers = [node for node in nodes or () if node.cpus]
        node = max(for_workers, key=lambda node: (node.free.cpus, node.free.memory), default=None)
        if node is None:
            raise NotLookedAtError("Ray has no node for workers now, or does not answer")
        if self._under_way >= _AT_ONCE:
            raise NotLookedAtError(f"{_AT_ONCE} checks are under way, and no more at once: repeat the request")
        self._under_way += 1
        try:
            with contextlib.closing(self._ray()) as ray:
                return await self._asked(ray, question, node)
        except (RayUnreachableError, RayRefusedError, OSError) as error:
            raise NotLookedAtError(str(error)) from error
        finally:
            self._under_way -= 1

    def _ray(self) -> RayJobs:
        settings = self._settings
        token = settings.ray_token.get_secret_value() if settings.ray_token else None
        return RayJobs(settings.ray_address, token, timeout=_RAY_SECONDS)

    async def _asked(
        self, ray: RayJobs, question: CheckQuestion | PlanQuestion, node: NodeInUse
    ) -> tuple[FlowAnswer, bytes]:
        check = _Check(ray, self._settings)
        seconds = self._settings.check_seconds
        try:
            # Unlike asyncio's, this waits for the thread that is at work: nothing is begun after the end.
            with anyio.move_on_after(seconds):
                await run_sync(check.start, question, node)
                while (answer := await run_sync(check.answer)) is None:
                    await anyio.sleep(_PAUSE_SECONDS)
                return answer
            raise NotLookedAtError(
                f"they could not be looked at within {seconds:g} s ({check.state}): the run itself reads them "
                "(SYMADJ_CHECK_SECONDS is the bound)"
            )
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(check.end)


class _Check:
    """One Ray job, and the folder with its question and answer, by threads.

    The folder is that of a job whose files come in: should this process die, the dispatcher removes it.
    """

    def __init__(self, ray: RayJobs, settings: Settings) -> None:
        self._ray, self._settings = ray, settings
        self._storage = settings.resolved_storage()
        self._id = new_job_id()
        self._folder = layout.check_folder(self._id)
        self._submission_id = f"{self._id}-check"
        self._answered = False
        self.state = "Ray was not asked yet"

    def start(self, question: CheckQuestion | PlanQuestion, node: NodeInUse) -> None:
        """Ask Ray for the job.

        Raises:
            RayUnreachableError, RayRefusedError: there is none.
            OSError: the storage can't be written.
        """
        settings = self._settings
        check = NodeCheck(question=question, memory=int(settings.flow_memory), threads=settings.flow_threads)
        self._storage.mark(layout.upload_mark(self._id))
        self._storage.write(f"{self._folder}/{NodeCheck.FILE}", check.model_dump_json().encode(), private=True)
        self._ray.submit(
            self._submission_id,
            ray_processes.python(settings),
            _MODULE,
            ray_processes.environment({NodeCheck.PLACE_VARIABLE: self._storage.name(self._folder)}),
            {"symadj_check": self._id},
            node=node.id,
        )
        self.state = f"on node {node.name}"

    def answer(self) -> tuple[FlowAnswer, bytes] | None:
        """Return the answer, None where there is none yet.

        Raises:
            NotLookedAtError: the process has ended without one.
        """
        # What has ended before the answer is looked for has given it by then.
        job = self._ray.job(self._submission_id)
        with contextlib.suppress(FileNotFoundError):
            framed = self._storage.read(f"{self._folder}/{NodeCheck.ANSWER}")
            self._answered = True
            return unframe(framed)
        if job is None or job.ended:
            said = self._ray.logs(self._submission_id, lines=1) or (job.message if job else "Ray does not know it")
            raise NotLookedAtError(f"the process {self.state} that was to look at them ended: {said[:500]}")
        return None

    def end(self) -> None:
        """Remove the folder; stop a job without an answer, of which the dispatcher removes what it may yet write."""
        if not self._answered:
            with contextlib.suppress(RayUnreachableError, RayRefusedError):
                self._ray.stop(self._submission_id)
        with contextlib.suppress(OSError):
            self._storage.remove(layout.job_folder(self._id))
            if self._answered:
                self._storage.remove_file(layout.upload_mark(self._id))
