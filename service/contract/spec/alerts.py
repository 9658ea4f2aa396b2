"""What is told of a training that goes wrong, or nowhere, while it runs. It never ends one."""

from __future__ import annotations

from pydantic import Field

from symadj.service.contract.spec.section import Section


class Plateau(Section):
    """The NLL does not fall: the newest validation's, or, without validations, an average of the batches'."""

    steps: int = Field(1000, ge=1, le=100_000_000, description="Within which it must fall.")
    improvement: float = Field(0.01, ge=0, le=1e6, description="By how much, in nats, at least.")


class Alerts(Section):
    """When a job has the event `alert`: once, and once again after it was `alert_over`."""

    diverged: bool = Field(True, description="A loss is not finite, or a step diverged or its solver was stuck.")
    plateau: Plateau | None = Field(None, description="null: never.")
    nfe_factor: float | None = Field(
        10.0,
        gt=1,
        le=1e6,
        description="A step's evaluations forward (`nfe_forward`) are more than so many times the median of the 100 "
        "steps before; null: never.",
    )
    over_budget: bool = Field(True, description="A worker's peak is above resources.memory_budget.")
    stalled_seconds: float | None = Field(
        1800.0, gt=0, le=60 * 60 * 24 * 365, description="No step ended within so many seconds; null: never."
    )
