"""What is saved of a training in progress, and what happens when it goes wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from symadj.service.contract.spec.section import Section


class Checkpoints(Section):
    """When the whole state of the training is stored, so that it can continue from there to the same bits.

    It is also stored whenever the job is paused, cancelled or out of time, on request through the API, and when the
    training is complete.
    """

    every_steps: int | None = Field(
        None, ge=1, le=100_000_000, description="Write one after so many steps; null: not by steps."
    )
    every_minutes: float | None = Field(
        5.0, gt=0, le=60 * 24 * 60, description="Write one after so many minutes; null: not by time."
    )
    keep_last: int = Field(2, ge=1, le=1000, description="How many of the newest are kept.")
    keep_best: bool = Field(True, description="Also store and keep the state after the validation with the lowest NLL.")


class FailOnDivergence(Section):
    """End the job at the first loss, gradient or state that is not finite, or solver that is stuck."""

    kind: Literal["fail"] = "fail"


class SkipBatch(Section):
    """Leave the weights unchanged in this step, and continue with the next batch."""

    kind: Literal["skip_batch"]
    max_in_a_row: int = Field(5, ge=1, le=1_000_000, description="More than this many in a row end the job.")


class HalveRate(Section):
    """Leave the weights unchanged in this step, and continue with half the learning rate."""

    kind: Literal["halve_rate"]
    max_halvings: int = Field(5, ge=1, le=100, description="The next divergence after this many ends the job.")


OnDivergence = Annotated[FailOnDivergence | SkipBatch | HalveRate, Field(discriminator="kind")]


class Parent(Section):
    """A checkpoint of another job: this one begins with its weights, optimiser state and step count."""

    job: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Id of the job that this one goes on from.",
    )
    step: int | None = Field(None, ge=0, lt=2**63, description="null: its newest checkpoint.")
