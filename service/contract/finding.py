"""What a look at a spec finds, before there is a job."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from symadj.service.contract.data_summary import DataSummary
from symadj.service.contract.storable import Message

__all__ = ["CheckedSpec", "Finding"]


class Finding(BaseModel):
    """One thing that is wrong with a spec, or doubtful, in its surroundings of now: data, nodes, memory."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    pointer: str = Field(description="A JSON pointer (RFC 6901) into the spec.")
    severity: Literal["error", "warning"] = Field(
        description="error: the job would fail if it started now; warning: it may, or this could not be found out."
    )
    detail: Message = Field(description="What was found, and what to do.")


class CheckedSpec(BaseModel):
    """What a close look at a spec has found.

    Attributes:
        findings: empty where nothing speaks against it.
        data: what was read; None where nothing could be.
    """

    findings: list[Finding]
    data: DataSummary | None = None
