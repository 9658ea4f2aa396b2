"""The model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.spec.section import Section


class ExactDivergence(Section):
    """The trace of the Jacobian, one VJP a dimension."""

    kind: Literal["exact"]


class HutchinsonDivergence(Section):
    """Hutchinson's unbiased estimate of the trace, its probes held fixed for a whole solve (FFJORD)."""

    kind: Literal["hutchinson"] = "hutchinson"
    distribution: Literal["rademacher", "gaussian"] = "rademacher"
    probes: int = Field(1, ge=1, le=1024)


Divergence = Annotated[ExactDivergence | HutchinsonDivergence, Field(discriminator="kind")]


class CnfFlow(Section):
    """Stacked continuous normalizing flow blocks over a standard normal base."""

    kind: Literal["cnf"] = "cnf"
    blocks: int = Field(2, ge=1, le=64, description="Blocks M, each with a vector field of its own.")
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field((64, 64), min_length=1, max_length=16)
    time: Literal["concat", "concatsquash"] = Field(
        "concatsquash", description="How a layer sees the time t: as one more input, or as gate and bias."
    )
    activation: Literal["tanh", "softplus", "silu"] = "tanh"
    end_time: float = Field(1.0, gt=0, le=100)
    divergence: Divergence = HutchinsonDivergence()
    dtype: Literal["float32", "float64"] = "float32"


Flow = Annotated[CnfFlow, Field(discriminator="kind")]
