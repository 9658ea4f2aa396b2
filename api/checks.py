"""What can be found out of a spec before its turn comes: its data, its memory, the nodes that it asks for, a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from anyio.to_thread import run_sync

from symadj.api.cluster_view import ClusterView
from symadj.api.flow_process import FlowProcess
from symadj.api.node_checks import NodeChecks, NotLookedAtError
from symadj.api.origins import is_loopback
from symadj.service import capacity
from symadj.service.contract.finding import CheckedSpec, Finding
from symadj.service.contract.flow_question import CheckQuestion, FlowAnswer, FlowOutcome, PlanQuestion
from symadj.service.contract.layout import upload_of
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.data import paths_of
from symadj.service.contract.storage import found_below, is_url
from symadj.service.contract.uploaded import UploadedFile
from symadj.service.errors import DataOutOfReachError, FlowMemoryError, SymadjError
from symadj.service.lifecycle import uploads
from symadj.service.ray_jobs import NodeInUse
from symadj.service.settings import Settings
from symadj.service.store import Database

__all__ = ["Checks"]


class Checks:
    """Looks at specs: at once, or closely.

    Args:
        settings: which say where the data are, and so where they are read.
        store: of the uploads, which are data too.
        cluster: the nodes.
        flows: the process that reads data beside the API.
    """

    def __init__(self, settings: Settings, store: Database, cluster: ClusterView, flows: FlowProcess) -> None:
        self._settings, self._store, self._cluster, self._flows = settings, store, cluster, flows
        ray_is_here = is_loopback(urlsplit(settings.ray_address).hostname or "")
        self._on_node = None
        if settings.check_on == "ray" or (settings.check_on is None and not ray_is_here):
            self._on_node = NodeChecks(settings)

    def look(self, spec: JobSpec) -> list[Finding]:
        """Return what is found without reading any data: files that are not there, nodes that are too small or few."""
        return [*self._missing_files(spec), *self._lack_of_nodes(spec, self._cluster.nodes())]

    async def look_closely(self, spec: JobSpec) -> CheckedSpec:
        """Return what is found by reading the data as a run would, where they are, and by planning the memory."""
        nodes = await run_sync(self._cluster.nodes)
        lack = list(self._lack_of_nodes(spec, nodes))
        if nodes is None:
            detail = "Ray does not answer, so whether its nodes have room for the workers is not known."
            lack = [Finding(pointer="/resources", severity="warning", detail=detail)]
        try:
            answer, content = await self._ask(spec, nodes)
        except (SymadjError, NotLookedAtError) as error:
            doubt = Finding(pointer="/data", severity="warning", detail=f"The data were not checked: {error}")
            return CheckedSpec(findings=[doubt, *lack])
        if answer.outcome is not FlowOutcome.DONE:
            doubt = Finding(pointer="", severity="warning", detail=f"Not all was checked: {answer.message}")
            return CheckedSpec(findings=[doubt, *lack])
        checked = CheckedSpec.model_validate_json(content)
        return CheckedSpec(findings=[*checked.findings, *lack], data=checked.data)

    async def _ask(self, spec: JobSpec, nodes: Sequence[NodeInUse] | None) -> tuple[FlowAnswer, bytes]:
        settings = self._settings
        question = CheckQuestion(
            spec=spec.stored(),
            roots=settings.resolved_data_roots(),
            uploads=await run_sync(self._uploads_of, spec),
            cache=self._cache,
            available_bytes=None if nodes is None else capacity.most_memory(spec.resources, nodes),
        )
        if self._on_node is None:
            return await self._flows.ask(question)
        return await self._on_node.ask(question, nodes)

    async def plan(self, spec: JobSpec, question: PlanQuestion) -> tuple[FlowAnswer, bytes]:
        """Return the answer to a question for a plan: of a process where the data are, if they are read for it.

        Args:
            spec: that the question has as it is stored.
            question: without what is known here: the roots, the cache and the bytes that a worker could have.

        Raises:
            BusyError, FlowTimeoutError, FlowMemoryError, FlowProcessError: as of :meth:`FlowProcess.ask`.
            DataOutOfReachError: the data are on the nodes of a cluster, and none has read them.
        """
        nodes = await run_sync(self._cluster.nodes)
        here = {
            "roots": self._settings.resolved_data_roots(),
            "cache": self._cache,
            "available_bytes": None if nodes is None else capacity.most_memory(spec.resources, nodes),
        }
        question = question.model_copy(update=here)
        far = [path for path in paths_of(spec.data).values() if upload_of(path) is None]
        if self._on_node is None or question.columns is not None or not far:
            return await self._flows.ask(question)
        try:
            answer, content = await self._on_node.ask(question, nodes)
        except NotLookedAtError as error:
            raise DataOutOfReachError(f"the data were not read: {error}; or {question.ask_for_less}") from error
        if answer.outcome is FlowOutcome.MEMORY:
            raise FlowMemoryError(
                f"a plan took more memory on a node than SYMADJ_FLOW_MEMORY allows: {question.ask_for_less} "
                f"({answer.message})"
            )
        return answer, content

    @property
    def _cache(self) -> str | None:
        """The folder for copies from buckets on nodes; beside the API such copies go with their process."""
        cache = self._settings.data_cache
        return str(cache.resolve()) if self._on_node and cache else None

    def _uploads_of(self, spec: JobSpec) -> tuple[UploadedFile, ...]:
        with self._store.read_session() as session:
            return uploads.files_of(session, spec, self._settings.resolved_storage())

    def _missing_files(self, spec: JobSpec) -> Iterator[Finding]:
        roots = self._settings.resolved_data_roots()
        if any(map(is_url, roots)):
            return
        folders = [Path(root).resolve() for root in roots]
        if self._on_node is not None and not all(folder.is_dir() for folder in folders):
            return  # those of Ray's nodes are others
        for name, path in paths_of(spec.data).items():
            # An upload that is not there was refused.
            if upload_of(path) is not None or any(found_below(folder, path, folders) for folder in folders):
                continue
            detail = (
                f"{path} was not found below a data root ({', '.join(map(str, folders))}): put it there before the "
                "job's turn comes, or submit the job again with another path"
            )
            if self._on_node is None:
                yield Finding(pointer=f"/data/{name}", severity="error", detail=detail)
            else:
                detail = f"As far as the API sees, whose data roots may differ from the workers': {detail}"
                yield Finding(pointer=f"/data/{name}", severity="warning", detail=detail)

    def _lack_of_nodes(self, spec: JobSpec, nodes: Sequence[NodeInUse] | None) -> Iterator[Finding]:
        if not nodes:  # none yet: Ray is starting
            return
        lack = capacity.never_fits(spec.resources, nodes, spec.rows_to_share)
        if lack is not None:
            severity = "warning" if self._settings.cluster_may_grow else "error"
            yield Finding(pointer="/resources", severity=severity, detail=lack)
