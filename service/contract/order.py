"""What a run is told."""

from __future__ import annotations

from pydantic import BaseModel, Field

from symadj.service.contract.spec import JobSpec

__all__ = ["RunOrder"]


class RunOrder(BaseModel):
    """All that a run is told, in the environment variable ``SYMADJ_RUN_ORDER`` of its Ray job."""

    job_id: str
    attempt: int
    api_url: str
    token: str
    storage: str = Field(description="Folder shared by all nodes, or URL of a bucket; the run writes under it alone.")
    workers: int = Field(description="Ranks of this attempt.")
    checkpoints_asked: int = Field(0, description="As in BatchAnswer, when the attempt began.")
    spec: JobSpec
