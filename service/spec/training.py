"""How the weights are moved, and when that ends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.spec.section import Section


class ConstantSchedule(Section):
    kind: Literal["constant"] = "constant"
    warmup_steps: int = Field(0, ge=0, le=100_000_000)


class CosineSchedule(Section):
    """Cosine decay towards ``final_fraction`` of the rate over all steps (needs ``stop.kind: steps``)."""

    kind: Literal["cosine"]
    warmup_steps: int = Field(0, ge=0, le=100_000_000)
    final_fraction: float = Field(0.0, ge=0, le=1)


Schedule = Annotated[ConstantSchedule | CosineSchedule, Field(discriminator="kind")]


class _Optimizer(Section):
    learning_rate: float = Field(1e-3, gt=0, le=100)
    schedule: Schedule = ConstantSchedule()
    clip_norm: float | None = Field(
        10.0,
        gt=0,
        description="Largest 2-norm of the gradient of all parameters together; null: no clipping.",
    )


class AdamOptimizer(_Optimizer):
    kind: Literal["adam"] = "adam"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)


class AdamWOptimizer(_Optimizer):
    kind: Literal["adamw"]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: float = Field(1e-2, ge=0, le=10)


class SgdOptimizer(_Optimizer):
    kind: Literal["sgd"]
    momentum: float = Field(0.9, ge=0, lt=1)


Optimizer = Annotated[AdamOptimizer | AdamWOptimizer | SgdOptimizer, Field(discriminator="kind")]


class StopAfterSteps(Section):
    """Stop after a number of optimiser steps: the same spec gives the same flow."""

    kind: Literal["steps"] = "steps"
    max_steps: int = Field(2000, ge=1, le=100_000_000)


class StopAfterMinutes(Section):
    """Stop when the time for training is up (start-up and evaluation not counted)."""

    kind: Literal["minutes"]
    max_minutes: float = Field(gt=0, le=60 * 24 * 60)


Stop = Annotated[StopAfterSteps | StopAfterMinutes, Field(discriminator="kind")]
