"""Where a job runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from symadj.service.contract.spec.section import MemorySize, Section


class _Resources(Section):
    workers: int = Field(1, ge=1, le=4096, description="Data-parallel ranks.")
    min_workers: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Start with as few as this if the cluster has no room for all; null: all or none. A step's batch "
        "stays the same and is shared by the workers there are, so their number must divide it.",
    )
    cpus_per_worker: int = Field(1, ge=1, le=1024, description="Cores, and threads of torch, of one worker.")
    memory_budget: MemorySize | None = Field(
        None,
        description="Host memory of one worker. Ray places by it; over_budget says what a measured peak above it does.",
    )
    over_budget: Literal["warn", "fail"] = Field(
        "warn",
        description="What a step does whose measured peak is above memory_budget: it is reported as an event (warn) or "
        "ends the job as out_of_memory (fail). With microbatch_size auto, microbatches are halved first.",
    )
    microbatch_size: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] | None = Field(
        None,
        description="Rows that a worker computes at once, of its share of a batch; loss and gradient are those of the "
        "whole batch. auto: all of them, and half as many whenever memory runs out or a step's peak is above "
        "memory_budget. null: all of them.",
    )
    out_of_memory_retries: int = Field(
        0,
        ge=0,
        le=10,
        description="How often a job whose worker ran out of memory, or was killed for it, is tried again from its "
        "newest checkpoint, each time with half as many rows at once. Each counts towards max_attempts.",
    )


class CpuResources(_Resources):
    """Workers on CPUs, gradients averaged by gloo."""

    kind: Literal["cpu"] = "cpu"


class GpuResources(_Resources):
    """Workers with one accelerator each, gradients averaged by NCCL."""

    kind: Literal["gpu"]


Resources = Annotated[CpuResources | GpuResources, Field(discriminator="kind")]
