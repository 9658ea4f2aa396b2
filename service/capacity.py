"""Whether a cluster has room for a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import ByteSize

from symadj.service.contract.spec.resources import CpuResources, GpuResources
from symadj.service.ray_jobs import Node

__all__ = ["choose_workers", "fits_now", "holds", "most_memory", "never_fits", "sizes"]

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


def sizes(resources: AnyResources, rows_to_share: int) -> list[int]:
    """Return the numbers of workers that the job may start with, the largest first: each divides the rows to share."""
    fewest = resources.min_workers or resources.workers
    return [count for count in range(resources.workers, fewest - 1, -1) if rows_to_share % count == 0]


def choose_workers(
    resources: AnyResources, rows_to_share: int, nodes: Sequence[Node], taken: Sequence[AnyResources]
) -> int | None:
    """Return the largest number of workers that fits beside our active jobs now, or None."""
    for count in sizes(resources, rows_to_share):
        if fits_now(resources.model_copy(update={"workers": count}), nodes, taken):
            return count
    return None


def _room(worker: Node, nodes: Sequence[Node]) -> int:
    return sum(_workers_on(node, worker) for node in nodes)


def holds(resources: AnyResources, workers: int, nodes: Sequence[Node]) -> bool:
    """Return whether the cluster, empty, has room for so many workers of a job."""
    return _room(_of_one_worker(resources), nodes) >= workers


def most_memory(resources: AnyResources, nodes: Sequence[Node]) -> int | None:
    """Return the most memory that each of the job's workers could have on the empty cluster, in bytes.

    None: the cluster has no room for so many workers, whatever their memory.
    """
    worker = _of_one_worker(resources.model_copy(update={"memory_budget": None}))
    places = {node: _workers_on(node, worker) for node in set(nodes)}
    shares = {node.memory / count for node, most in places.items() for count in range(1, most + 1)}
    for share in sorted(shares, reverse=True):
        if _room(replace(worker, memory=share), nodes) >= resources.workers:
            return int(share)
    return None


def never_fits(resources: AnyResources, nodes: Sequence[Node], rows_to_share: int) -> str | None:
    """Return why the cluster could not take the job even if it were empty, or None if it could."""
    worker = _of_one_worker(resources)
    room = _room(worker, nodes)
    fewest = sizes(resources, rows_to_share)[-1]
    if room >= fewest:
        return None
    wants = f"{worker.cpus:g} CPUs"
    if worker.gpus:
        wants += f", {worker.gpus:g} GPU"
    if worker.memory:
        wants += f", {_size(worker.memory)}"
    has = "; ".join(f"{n.cpus:g} CPUs, {n.gpus:g} GPUs, {_size(n.memory)}" for n in nodes)
    return (
        f"The job asks for {fewest} workers of {wants} each; the cluster, empty, has room for {room} "
        f"(nodes: {has}). Ask for fewer or smaller workers, or add nodes."
    )


def _size(memory: float) -> str:
    return ByteSize(int(memory)).human_readable(separator=" ")


def fits_now(resources: AnyResources, nodes: Sequence[Node], taken: Sequence[AnyResources]) -> bool:
    """Return whether the job fits beside our active ones, the workers of all put on nodes first-fit.

    Ray may have placed them otherwise; then it lets the job wait until it fits.
    """
    free = list(nodes)
    return all(_place(_of_one_worker(job), job.workers, free) for job in (*taken, resources))


def _place(worker: Node, count: int, free: list[Node]) -> bool:
    """Take so many workers from what is free on the nodes; return whether there was room."""
    for place, node in enumerate(free):
        here = min(count, _workers_on(node, worker))
        free[place] = Node(
            node.cpus - here * worker.cpus, node.gpus - here * worker.gpus, node.memory - here * worker.memory
        )
        count -= here
    return count == 0
