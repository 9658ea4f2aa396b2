"""Whether a cluster has room for a job."""

from __future__ import annotations

from collections.abc import Sequence

from service.ray_jobs import Node
from service.spec import CpuResources, GpuResources

__all__ = ["fits_now", "never_fits"]

AnyResources = CpuResources | GpuResources


def _of_one_worker(resources: AnyResources) -> Node:
    return Node(
        cpus=float(resources.cpus_per_worker),
        gpus=1.0 if resources.kind == "gpu" else 0.0,
        memory=float(resources.memory_budget or 0),
    )


def _workers_on(node: Node, worker: Node) -> int:
    """Return how many such workers an empty node holds."""
    ratios = [
        has // wants
        for has, wants in ((node.cpus, worker.cpus), (node.gpus, worker.gpus), (node.memory, worker.memory))
        if wants
    ]
    return int(min(ratios))


def never_fits(resources: AnyResources, nodes: Sequence[Node]) -> str | None:
    """Return why the cluster could not take the job even if it were empty, or None if it could."""
    worker = _of_one_worker(resources)
    room = sum(_workers_on(node, worker) for node in nodes)
    if room >= resources.workers:
        return None
    wants = f"{worker.cpus:g} CPUs"
    if worker.gpus:
        wants += f", {worker.gpus:g} GPU"
    if worker.memory:
        wants += f", {worker.memory / 2**30:.1f} GiB"
    has = "; ".join(f"{n.cpus:g} CPUs, {n.gpus:g} GPUs, {n.memory / 2**30:.1f} GiB" for n in nodes)
    return (
        f"The job asks for {resources.workers} workers of {wants} each; the cluster, empty, has room for {room} "
        f"(nodes: {has}). Ask for fewer or smaller workers, or add nodes."
    )


def fits_now(resources: AnyResources, nodes: Sequence[Node], taken: Sequence[AnyResources]) -> bool:
    """Return whether what the cluster has, less what our active jobs took, is enough."""
    worker = _of_one_worker(resources)
    for field in ("cpus", "gpus", "memory"):
        total = sum(getattr(node, field) for node in nodes)
        used = sum(other.workers * getattr(_of_one_worker(other), field) for other in taken)
        if resources.workers * getattr(worker, field) > total - used:
            return False
    return True
