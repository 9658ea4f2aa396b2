"""What the cluster has, what the active jobs hold of it, and how much waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy.orm import Session

from symadj.service.contract.spec import spec_of_stored
from symadj.service.ray_jobs import Node
from symadj.service.store import jobs

__all__ = ["Cluster", "HeldByJob", "cluster"]


@dataclass(frozen=True)
class HeldByJob:
    """An active job: the workers of its attempt, and what all of them hold. ``held.memory`` is in bytes."""

    id: str
    name: str
    owner: str
    state: str
    workers: int
    held: Node


@dataclass(frozen=True)
class Cluster:
    """Nodes (None: Ray does not answer), what they have in all, what active jobs hold, and the number that wait."""

    nodes: Sequence[Node] | None
    total: Node | None
    used: Node
    active: Sequence[HeldByJob]
    queued: int


def cluster(session: Session, nodes: Sequence[Node] | None, *, owner: str | None = None) -> Cluster:
    """Return how the cluster is used; with ``owner`` the jobs of that owner alone are named, and counted as waiting."""
    rows = jobs.active(session)
    tries = jobs.attempts_of(session, [job.id for job in rows])
    active = []
    for job in rows:
        try:
            resources = spec_of_stored(job.spec).resources
        except ValidationError:  # of another version; the dispatcher settles it
            continue
        count = tries[job.id][-1].workers
        held = Node(
            cpus=float(count * resources.cpus_per_worker),
            gpus=float(count if resources.kind == "gpu" else 0),
            memory=float(count * (resources.memory_budget or 0)),
        )
        active.append(HeldByJob(job.id, job.name, job.owner, job.state, count, held))
    return Cluster(
        nodes=nodes,
        total=None if nodes is None else _sum(nodes),
        used=_sum([item.held for item in active]),
        active=[item for item in active if owner in {None, item.owner}],
        queued=jobs.count_queued(session, owner),
    )


def _sum(parts: Sequence[Node]) -> Node:
    return Node(
        sum((part.cpus for part in parts), 0.0),
        sum((part.gpus for part in parts), 0.0),
        sum((part.memory for part in parts), 0.0),
    )
