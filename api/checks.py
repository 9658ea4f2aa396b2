"""What can be found out of a spec before its turn comes: its data, its memory, the nodes that it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from anyio.to_thread import run_sync
from pydantic import TypeAdapter

from symadj.api.cluster_view import ClusterView
from symadj.api.flow_process import FlowProcess
from symadj.api.origins import is_loopback
from symadj.service import capacity
from symadj.service.contract.finding import Finding
from symadj.service.contract.flow_question import CheckQuestion, FlowOutcome
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.storage import found_below, is_url
from symadj.service.errors import SymadjError
from symadj.service.settings import Settings

__all__ = ["look", "look_closely"]

_FINDINGS: TypeAdapter[list[Finding]] = TypeAdapter(list[Finding])


def look(spec: JobSpec, settings: Settings, cluster: ClusterView) -> list[Finding]:
    """Return what is found without reading any data: files that are not there, nodes that are too small or too few."""
    return [*_missing_files(spec, settings), *_lack_of_nodes(spec, settings, cluster)]


async def look_closely(spec: JobSpec, settings: Settings, cluster: ClusterView, flows: FlowProcess) -> list[Finding]:
    """Return what is found by reading the data as a run would, and by planning the memory; else as :func:`look`."""
    lack = await run_sync(lambda: list(_lack_of_nodes(spec, settings, cluster)))
    nodes = await run_sync(cluster.nodes)
    available = None if nodes is None else capacity.most_memory(spec.resources, nodes)
    question = CheckQuestion(spec=spec.stored(), roots=settings.resolved_data_roots(), available_bytes=available)
    try:
        answer, content = await flows.ask(question)
    except SymadjError as error:
        return [*lack, Finding(pointer="/data", severity="warning", detail=f"The data were not checked: {error}")]
    if answer.outcome is not FlowOutcome.DONE:
        return [*lack, Finding(pointer="", severity="warning", detail=f"Not all was checked: {answer.message}")]
    found = _FINDINGS.validate_json(content)
    if not _has_the_workers_data(settings):
        found = [_from_afar(item) for item in found]
    if nodes is None:
        detail = "Ray does not answer, so whether its nodes have room for the workers is not known."
        lack = [Finding(pointer="/resources", severity="warning", detail=detail)]
    return [*found, *lack]


def _has_the_workers_data(settings: Settings) -> bool:
    """Return whether the data roots of the workers are this machine's own."""
    return is_loopback(urlsplit(settings.ray_address).hostname or "")


def _from_afar(finding: Finding) -> Finding:
    if not finding.pointer.startswith("/data"):
        return finding
    detail = f"As far as the API sees, whose data roots may differ from the workers': {finding.detail}"
    return finding.model_copy(update={"severity": "warning", "detail": detail})


def _missing_files(spec: JobSpec, settings: Settings) -> Iterator[Finding]:
    roots = settings.resolved_data_roots()
    if not _has_the_workers_data(settings) or any(map(is_url, roots)):
        return
    folders = [Path(root).resolve() for root in roots]
    for name in ("path", "test_path"):
        path = getattr(spec.data, name, None)
        if path is None or any(found_below(folder, path, folders) for folder in folders):
            continue
        yield Finding(
            pointer=f"/data/{name}",
            severity="error",
            detail=(
                f"{path} was not found below a data root ({', '.join(map(str, folders))}): put it there before the "
                "job's turn comes, or submit the job again with another path"
            ),
        )


def _lack_of_nodes(spec: JobSpec, settings: Settings, cluster: ClusterView) -> Iterator[Finding]:
    nodes = cluster.nodes()
    if not nodes:  # none yet: Ray is starting
        return
    lack = capacity.never_fits(spec.resources, nodes, spec.rows_to_share)
    if lack is not None:
        yield Finding(pointer="/resources", severity="warning" if settings.cluster_may_grow else "error", detail=lack)
