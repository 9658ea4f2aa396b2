"""Answers about the service itself: data sets, usage, health."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from symadj.api.schemas.answer import Answer, OwnerName
from symadj.service.contract.states import JobState

__all__ = [
    "ClusterNodeRead",
    "ClusterRead",
    "DatasetList",
    "DatasetRead",
    "FieldList",
    "FieldRead",
    "FolderUsage",
    "Health",
    "HeldByJobRead",
    "NodeRead",
    "Readiness",
    "UsageRead",
]


class FolderUsage(Answer):
    """Disk space of the folder of one job."""

    job_id: str = Field(description="Id of the job.")
    bytes: int = Field(description="Of all files in the folder.")


class UsageRead(Answer):
    """What the service takes: rows, bytes of the store, bytes of the jobs' folders and of the uploads."""

    rows: dict[str, int] = Field(description="By table of the store.")
    store_bytes: int = Field(description="Of the database: SQLite's file with its log, or PostgreSQL's own figure.")
    jobs_bytes: int = Field(description="Of the files of all jobs.")
    uploads_bytes: int = Field(description="Of all uploads.")
    jobs: list[FolderUsage] = Field(description="The largest folders, largest first.")
    free_bytes: int | None = Field(description="Left on the disk of the jobs' folders; null in a bucket.")


class NodeRead(Answer):
    """CPUs, accelerators and memory."""

    cpus: float = Field(description="Cores, as Ray counts them.")
    gpus: float = Field(description="Accelerators, as Ray counts them.")
    memory: float = Field(description="Bytes.")


class ClusterNodeRead(NodeRead):
    """What a node has in all, and what of it is free."""

    name: str = Field(description="As Ray calls it: its address, unless it was started with another name.")
    free: NodeRead = Field(description="What no placement group of Ray's holds, of this service or of others.")


class _JobOfCluster(Answer):
    id: str = Field(description="Id of the job.")
    name: str = Field(description="Name of the job.")
    owner: OwnerName


class HeldByJobRead(_JobOfCluster):
    """A job that holds a part of the cluster."""

    state: JobState = Field(description="`starting`, `running` or `pausing`.")
    workers: int = Field(description="Ranks of its attempt.")
    held: NodeRead = Field(description="By all its workers; memory as far as the spec has a memory_budget.")


class WaitingJobRead(_JobOfCluster):
    """A job in the queue."""

    place: int = Field(description="In the queue of all jobs, by priority, then first come; 1 is the next.")
    reason: str = Field(description="What it waits for, in a sentence.")


class ClusterRead(Answer):
    """What the cluster has, and who holds what of it."""

    nodes: list[ClusterNodeRead] | None = Field(description="Living nodes; null where Ray does not answer.")
    total: NodeRead | None = Field(description="Of all nodes; null where Ray does not answer.")
    used: NodeRead = Field(description="By the active jobs of all owners, as the dispatcher counts it.")
    active: list[HeldByJobRead] = Field(description="To a submitter, their own jobs.")
    queued: int = Field(description="Jobs that wait; to a submitter, their own.")
    waiting: list[WaitingJobRead] = Field(
        default_factory=list, description="The first of them, at most 100, in the order of the queue."
    )


class DatasetRead(Answer):
    """A data set that a spec may name."""

    kind: str = Field(description="`data.kind` of a spec.")
    name: str = Field(description="`data.name` of a spec.")
    description: str = Field(description="What it has.")
    rows: int | None = Field(description="null: as many as the spec asks for.")
    dim: int = Field(description="Columns.")
    licence: str = Field(description="Under which it may be used.")
    source: str = Field(description="Where it comes from.")
    reference_test_nll: dict[str, float] = Field(
        description="Nats, after the default transforms, on the default split."
    )


class DatasetList(Answer):
    """The built-in data sets."""

    items: list[DatasetRead] = Field(description="The measured ones first, then those that are drawn.")


class FieldRead(Answer):
    """A vector field that a spec may name."""

    kind: str = Field(description="`flow.field.kind`.")
    name: str | None = Field(description="`flow.field.name` of kind plugin; null for what symadj has itself.")
    package: str | None = Field(description="NAME==VERSION of the installed package; null for what symadj has itself.")
    description: str = Field(description="What symadj, or the package, says of it.")
    options: dict[str, Any] = Field(
        description="JSON schema of the options: of `flow.field.options` for kind plugin, of the other fields of "
        "`flow.field` for what symadj has itself."
    )
    problem: str | None = Field(description="Why a spec that names it is refused; null if it is not.")


class FieldList(Answer):
    """The vector fields: those of symadj, then those of installed packages."""

    items: list[FieldRead] = Field(description="Those of packages in the order of their names.")


class Health(Answer):
    """The process is alive."""

    status: str = Field("ok", description="`ok`: whatever is wrong is answered as an error.")
    version: str = Field(description="Of symadj on the server.")


class Readiness(Answer):
    """Whether each part that a job needs answers: "ok", or what went wrong."""

    store: str = Field(description="The status is 503 where this is not ok.")
    ray: str = Field(description="Where this is not ok, jobs wait in the queue; the API serves all requests.")
