"""Answers about comparisons of gradients."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from symadj.api.schemas.answer import Answer
from symadj.service.contract.result import Number
from symadj.service.contract.states import JobState

__all__ = ["ComparedGradient", "ComparisonRead"]


class ComparedGradient(Answer):
    """What one gradient took and gave; null is what is not measured, or not yet."""

    job: str = Field(description="The job that trains by it.")
    gradient: dict[str, Any] = Field(description="With its options, as in the job's spec.")
    state: JobState = Field(description="Of that job.")
    step: int = Field(description="Optimiser steps completed.")
    test_nll: Number | None = Field(description="Nats a row.")
    test_nll_stderr: Number | None = Field(description="Its standard error over the rows, nats.")
    gradient_error: Number | None = Field(
        description="Of the trained weights' gradient against backpropagation in float64, relative (2-norm)."
    )
    peak_bytes: int | None = Field(
        description="Highest memory of a rank in any step, validation or evaluation: the device's, or the host's where "
        "there is none."
    )
    above_idle_bytes: int | None = Field(
        description="The most that a step needed, forward, backward and optimiser, beyond what the rank held when it "
        "began, in the same memory. Without an attempt's first step, and without validation and evaluation, which need "
        "the same whatever the gradient."
    )
    step_seconds: float | None = Field(description="Median of the newest 1,000 steps.")
    nfe_forward: float | None = Field(description="Uses of the network in a step's solve, median of the same steps.")
    nfe_backward: float | None = Field(description="And in its backward pass.")


class ComparisonRead(Answer):
    """One spec trained by several gradients."""

    id: str = Field(description="Id of the comparison, `cmp-...`.")
    gradients: list[ComparedGradient] = Field(description="In the order in which they were asked for.")
