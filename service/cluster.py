"""What the cluster has, what the active jobs hold of it, and how much waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy.orm import Session

from symadj.service.contract.spec import spec_of_stored
from symadj.service.lifecycle import figures
from symadj.service.ray_jobs import Node, NodeInUse
from symadj.service.store import jobs

__all__ = ["Cluster", "HeldByJob", "WaitingJob", "cluster"]

# Jobs of the queue that are named.
MOST_NAMED = 100


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
class WaitingJob:
    """A job in the queue: its place, counted from 1, and what it waits for."""

    id: str
    name: str
    owner: str
    place: int
    reason: str


@dataclass(frozen=True)
class Cluster:
    """Nodes (None: Ray does not answer), what they have in all, what active jobs hold, how many wait, and the first."""

    nodes: Sequence[NodeInUse] | None
    total: Node | None
    used: Node
    active: Sequence[HeldByJob]
    queued: int
    waiting: Sequence[WaitingJob]


def cluster(
    session: Session, nodes: Sequence[NodeInUse] | None, *, owner: str | None = None, most_active: int | None = None
) -> Cluster:
    """Return how the cluster is used; with ``owner`` the jobs of that owner alone are named, and counted as waiting.

    ``most_active`` is how many of an owner may run at once.
    """
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
        waiting=_waiting(session, owner, most_active),
    )


def _waiting(session: Session, owner: str | None, most_active: int | None) -> list[WaitingJob]:
    first = jobs.first_queued(session, owner, limit=MOST_NAMED)
    places = figures.places_of(session, first, most_active=most_active)
    return [
        WaitingJob(job.id, job.name, job.owner, places[job.id].place, places[job.id].reason)
        for job in first
        if job.id in places
    ]


def _sum(parts: Sequence[Node]) -> Node:
    return Node(
        sum((part.cpus for part in parts), 0.0),
        sum((part.gpus for part in parts), 0.0),
        sum((part.memory for part in parts), 0.0),
    )
