"""Tables for trained flows, and theirs, in JSON."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from symadj.api.schemas.answer import Answer

__all__ = ["FlowContexts", "FlowRows", "FlowTable"]

Row = list[float]
Rows = Annotated[list[Row], Field(min_length=1)]
Named = Annotated[dict[str, list[float]], Field(min_length=1)]
Context = Annotated[
    list[Row] | dict[str, list[float]] | None,
    Field(description="Rows of the context, or its columns by name, in the units of the data."),
]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class FlowContexts(_Sent):
    """What samples are conditioned on: nothing, for a flow without a context."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"context": {"age": [35.0, 60.0]}}]})

    context: Context = None


class FlowRows(_Sent):
    """Rows in the units of the data, as `rows` or as `columns`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"rows": [[0.25, -0.5], [1.0, 0.75]]},
                {"columns": {"x": [0.25, 1.0], "y": [-0.5, 0.75]}, "context": {"age": [35.0, 60.0]}},
            ]
        }
    )

    rows: Rows | None = Field(None, description="In the order of the flow's columns; images are flat.")
    columns: Named | None = Field(None, description="By name, in any order; those that the flow lacks are not read.")
    context: Context = None
    index: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(
        None,
        description="The rows' numbers in the data set: dequantised rows then get the noise, and estimated divergences "
        "the probes, that the job's test gave them.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.rows is None) == (self.columns is None):
            raise ValueError("send either `rows` or `columns`")
        return self


class FlowTable(Answer):
    """The columns of a table by name, all of one length."""

    columns: dict[str, list[float]] = Field(
        description="Values by column, in the units of the data; of densities the one column `log_prob`, nats."
    )
