"""How the weights are updated, and when training ends."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from symadj.service.contract.spec.section import Section


class _Schedule(Section):
    needs_last_step: ClassVar[bool] = False
    needs_validations: ClassVar[bool] = False


class ConstantSchedule(_Schedule):
    """The full rate, after the warm-up."""

    kind: Literal["constant"] = "constant"
    warmup_steps: int = Field(0, ge=0, le=100_000_000, description="In which the rate rises linearly from 0.")


class CosineSchedule(_Schedule):
    """Cosine decay towards ``final_fraction`` of the rate over all steps (the optimizer's needs ``stop: steps``)."""

    kind: Literal["cosine"]
    needs_last_step: ClassVar[bool] = True
    warmup_steps: int = Field(0, ge=0, le=100_000_000, description="In which the rate rises linearly from 0.")
    final_fraction: float = Field(0.0, ge=0, le=1, description="Of the full rate: where it ends.")


class PlateauSchedule(_Schedule):
    """Multiply the rate by ``factor`` whenever ``patience`` validations in a row brought no improvement on the best."""

    kind: Literal["plateau"]
    needs_validations: ClassVar[bool] = True
    warmup_steps: int = Field(0, ge=0, le=100_000_000, description="In which the rate rises linearly from 0.")
    factor: float = Field(0.5, gt=0, lt=1, description="By which the rate is multiplied on a plateau.")
    patience: int = Field(5, ge=1, le=1_000_000, description="Validations.")
    min_improvement: float = Field(
        0.0, ge=0, le=1e6, description="Of the validation NLL, in nats; less does not count."
    )
    final_fraction: float = Field(0.0, ge=0, le=1, description="Of the full rate: the rate does not fall below it.")


Schedule = Annotated[ConstantSchedule | CosineSchedule | PlateauSchedule, Field(discriminator="kind")]


class _Optimizer(Section):
    learning_rate: float = Field(1e-3, gt=0, le=100, description="The full rate, which the schedule changes.")
    schedule: Schedule = Field(ConstantSchedule(), description="Of the learning rate, over the steps.")
    clip_norm: float | None = Field(
        10.0,
        gt=0,
        description="Largest 2-norm of the gradient of all parameters together; null: no clipping.",
    )


class AdamOptimizer(_Optimizer):
    kind: Literal["adam"] = "adam"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="Decay of the averages of the gradient and of its square."
    )


class AdamWOptimizer(_Optimizer):
    kind: Literal["adamw"]
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="Decay of the averages of the gradient and of its square."
    )
    weight_decay: float = Field(
        1e-2, ge=0, le=10, description="Times the learning rate: what a weight loses of itself in a step."
    )


class SgdOptimizer(_Optimizer):
    kind: Literal["sgd"]
    momentum: float = Field(0.9, ge=0, lt=1, description="Share of the step before that is added to the next.")


Optimizer = Annotated[AdamOptimizer | AdamWOptimizer | SgdOptimizer, Field(discriminator="kind")]


class MovingAverage(Section):
    """Exponential moving average of the weights, which validation, evaluation and samples then use.

    After n steps the decay is ``min(decay, (1 + n) / (10 + n))``, so that the initial weights are soon forgotten.
    """

    decay: float = Field(0.999, gt=0, lt=1, description="Weight of what was averaged so far, in every step.")


class EarlyStop(Section):
    """Stop when validations bring no improvement, and return to the weights of the best one.

    The best one has the lowest validation NLL; its weights are used however the training ends.
    """

    patience: int = Field(30, ge=1, le=1_000_000, description="Validations in a row without improvement.")
    min_improvement: float = Field(
        0.0, ge=0, le=1e6, description="Of the validation NLL, in nats; less does not count."
    )
    count_pretraining: bool = Field(
        False,
        description="Whether validations during pre-training count. If so, the likelihood goes on from the best of "
        "its weights, which stay the best until a validation is better; pre-training itself is never cut short.",
    )


class StopAfterSteps(Section):
    """Stop after a number of optimiser steps, pre-training's included: the same spec gives the same flow."""

    kind: Literal["steps"] = "steps"
    max_steps: int = Field(2000, ge=1, le=100_000_000, description="Steps of the training, pre-training included.")


class StopAfterMinutes(Section):
    """Stop when the time for training is up (start-up and evaluation not counted)."""

    kind: Literal["minutes"]
    max_minutes: float = Field(
        gt=0, le=60 * 24 * 60, description="Time of the training, in which start-up and evaluation do not count."
    )


Stop = Annotated[StopAfterSteps | StopAfterMinutes, Field(discriminator="kind")]
