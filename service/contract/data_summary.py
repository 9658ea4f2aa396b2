"""What a run has read: rows, columns, their values, and what was done to them while reading."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from symadj.service.contract.result import Number
from symadj.service.contract.spec.data import Data
from symadj.service.contract.storable import Details, Message

__all__ = ["MAX_COLUMNS", "ColumnSummary", "DataAnswer", "DataQuestion", "DataSummary", "SourceSummary"]

# Of one source, that are described one by one.
MAX_COLUMNS = 10_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True, ser_json_inf_nan="strings")


class ColumnSummary(_Part):
    """The values of a column as they were read, before any transform."""

    name: Message = Field(description="Its name; of images, of the channel.")
    context: bool = Field(False, description="Whether it is a column of the context, which the flow is conditioned on.")
    dtype: Message = Field(description="Type of the column in the file; of a set that is in no file, of its values.")
    min: Number | None = Field(description="Smallest finite value; null where no value is finite.")
    mean: Number | None = Field(
        description="Mean of the finite values, in double precision; null where no value is finite."
    )
    max: Number | None = Field(description="Largest finite value; null where no value is finite.")
    zeros: float = Field(description="Share of the values that are 0.")
    not_finite: int = Field(0, description="Values that are NaN or infinite, which a run refuses.")
    remarks: list[Message] = Field(
        default_factory=list, description="What is unusual about the column: constant, mostly zeros, not finite."
    )


class SourceSummary(_Part):
    """The rows of one file or folder, or of a set that is in no file."""

    name: Message = Field(description="As the spec has it.")
    format: Message | None = Field(description="Of the file; null where there is none.")
    rows: int = Field(description="Rows that were read. All of them are in the figures of the columns.")
    dim: int = Field(description="Columns that were read, the context's included; of images, values of one image.")
    columns: list[ColumnSummary] = Field(
        description=f"Columns in their order, the first {MAX_COLUMNS}; of images, one entry for each channel."
    )
    notes: list[Message] = Field(description="What was applied or left out while reading, a sentence each.")
    remarks: list[Message] = Field(
        default_factory=list, description="What is unusual about the columns beside each other."
    )


class DataSummary(_Part):
    """What was read for a job, in the units of the data."""

    sources: list[SourceSummary] = Field(description="The file with the test rows, if there is one, comes last.")
    image: tuple[int, int, int] | None = Field(
        None, description="Channels, height and width where rows are images; else null."
    )
    transforms: list[Details] = Field(
        description="What will be applied to the columns, in this order, as in the spec; first what belongs to the set."
    )

    def stored(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        values: dict[str, Any] = json.loads(self.model_dump_json())
        return values


class DataQuestion(_Part):
    """What a reader without a job is asked (``symadj.workers.inspect``).

    Attributes:
        data: the section of a spec.
        roots: the folders that the data may lie below.
    """

    data: Data
    roots: tuple[str, ...]


class DataAnswer(_Part):
    """What it answers.

    Attributes:
        summary: None where nothing could be read.
        refused: why a run would refuse the data; None: it would not.
    """

    summary: DataSummary | None
    refused: str | None
