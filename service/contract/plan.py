"""What a job will take in memory, gradient by gradient, known before it runs."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from symadj.service.contract.sizes import readable
from symadj.service.contract.storable import Details, Message

__all__ = [
    "IDLE_BYTES",
    "PAIRING_BYTES",
    "PLANNED_STEPS",
    "STEP_BYTES",
    "GradientPlan",
    "HeldBytes",
    "Plan",
    "PlannedPart",
    "PlannedPeak",
    "PlannedPhase",
]

# Resident memory of a worker on a CPU before it has any rows or weights: interpreter and libraries of a warm start, the
# least that there is. After its first step such a worker held 340 MiB (`STEP_BYTES` is in it), and a cold one 423.
IDLE_BYTES = 325 * 2**20
# What a training's first step adds for good: code and buffers of the linear algebra.
STEP_BYTES = 20 * 2**20
# And the library that pairs by optimal transport.
PAIRING_BYTES = 33 * 2**20

# Accepted steps N of each block's solve for which a plan has figures; with fixed steps there is one N.
PLANNED_STEPS = (10, 30, 100, 300)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True)


class HeldBytes(_Part):
    """What is held for every step of a solve."""

    step_bytes: float = Field(description="For one step.")
    most_bytes: float | None = Field(description="For all of them at most; null: it grows with the steps.")


class PlannedPart(_Part):
    """A part of a step, of one block: bytes of tensors alive at its peak."""

    phase: Literal["probes", "forward", "backward"] = Field(description="probes: their drawing, before the solve.")
    block: int = Field(description="From the data on, the first is 0.")
    fixed_bytes: float = Field(description="Whatever the number of steps is.")
    held: list[HeldBytes] = Field(description="What is kept along the solve, by kinds.")

    def bytes(self, steps: float) -> float:
        """Return what is alive at the peak if each block's solve takes so many steps."""
        held = (
            part.step_bytes * steps if part.most_bytes is None else min(part.step_bytes * steps, part.most_bytes)
            for part in self.held
        )
        return self.fixed_bytes + sum(held)

    @property
    def words(self) -> str:
        """What it is called."""
        what = "the drawing of the probes of" if self.phase == "probes" else f"the pass {self.phase} through"
        return f"{what} block {self.block}"


class PlannedPhase(_Part):
    """What a run does beside the steps of the likelihood: its peak is of any gradient and number of solver steps."""

    phase: Literal["pretraining", "validation", "evaluation"] = Field(description="pretraining: by flow matching.")
    rows: int = Field(description="That a worker computes at once.")
    peak_bytes: int = Field(description="Tensors alive at once, beside weights and optimiser.")

    def bytes(self, _steps: float) -> float:
        """Return that peak, as `PlannedPart.bytes` does."""
        return self.peak_bytes

    @property
    def words(self) -> str:
        """What it is called."""
        what = {"pretraining": "a step of flow matching", "validation": "a validation", "evaluation": "the evaluation"}
        return f"{what[self.phase]}, of {self.rows} rows at once"


class PlannedPeak(_Part):
    """The most that a run holds if each block's solve takes so many steps."""

    steps: int = Field(description="Accepted steps N of each block's solve.")
    step_bytes: int = Field(
        description="Tensors of a step of the likelihood alive at once, beside weights and optimiser."
    )
    worker_bytes: int = Field(
        description="All that one worker then holds in that step or in another phase of its run, whichever is more; of "
        "a GPU, all that its memory does."
    )
    relative_time: float = Field(description="Time of a step, divided by that of the spec's own gradient; an estimate.")
    limited_by: Message = Field(description="The part of a step, or the phase of the run, that holds the most.")
    fits_budget: bool | None = Field(description="Within resources.memory_budget; null where there is none.")
    fits_workers: bool | None = Field(
        description="Whether the cluster, empty, has room for the job's workers of that size; null where unknown."
    )


class GradientPlan(_Part):
    """What a training step takes by one way to make the gradient."""

    gradient: Details = Field(description="As the section `gradient` of a spec.")
    chosen: bool = Field(description="Whether it is the spec's own.")
    exact: bool = Field(description="Whether it is the derivative of the computed solution, up to rounding.")
    parts: list[PlannedPart] = Field(description="From which the bytes for any number of steps follow.")
    peaks: list[PlannedPeak] = Field(
        description="For some numbers of solver steps; for the one there is, where they are fixed."
    )

    def part(self, steps: float) -> PlannedPart:
        """Return the part that holds the most if each block's solve takes so many steps."""
        return max(self.parts, key=lambda part: part.bytes(steps))

    def step_bytes(self, steps: float) -> int:
        """Return how much that is."""
        return round(self.part(steps).bytes(steps))


class Plan(_Part):
    """What one worker of a job takes. Sizes are in bytes; data held in memory are not counted."""

    columns: int = Field(description="Values of a row that the flow models.")
    context_columns: int = Field(description="Values of a row that the flow is conditioned on; 0: none.")
    rows_per_worker: int = Field(description="Of one step.")
    blocks: int = Field(description="Blocks of the flow, each with a solve of its own.")
    parameters: int = Field(description="Learnt numbers of the flow.")
    idle_bytes: int = Field(description="Of the interpreter and the libraries; 0 of a GPU's memory.")
    weights_bytes: int = Field(description="With the average of the weights, and those of the best validation.")
    optimizer_bytes: int = Field(description="State of the optimiser.")
    state_bytes: int = Field(description="One state of the solve of the block that moves most.")
    graph_bytes: int | None = Field(
        description="Graph of one use of the field for backward, of the block that has most; null in a run's own plan."
    )
    memory_budget: int | None = Field(
        description="resources.memory_budget; null: there is none, or the workers have GPUs."
    )
    available_bytes: int | None = Field(
        description="The most that each worker could have on the cluster, empty; null where unknown."
    )
    gradients: list[GradientPlan] = Field(
        description="The spec's own, and every other one; in a run's own plan its own alone."
    )
    phases: list[PlannedPhase] = Field([], description="Of the run, beside the steps of the likelihood.")
    largest_batch: dict[int, int] | None = Field(
        description="By N: rows of a step, over all workers, with which the steps of the training, by the spec's own "
        "gradient, still fit; null where nothing limits it.",
        json_schema_extra={"propertyNames": {"pattern": "^[1-9][0-9]{0,8}$"}},
    )

    @property
    def resting_bytes(self) -> int:
        """What a worker holds between two steps."""
        return self.idle_bytes + self.weights_bytes + self.optimizer_bytes

    @property
    def chosen(self) -> GradientPlan:
        """The spec's own gradient."""
        return next(item for item in self.gradients if item.chosen)

    @property
    def over_budget(self) -> str | None:
        """In words, that even the shortest solve takes more than resources.memory_budget; None: it does not."""
        least = self.chosen.peaks[0]
        if self.memory_budget is None or least.fits_budget:
            return None
        return (
            f"by its plan a worker holds {readable(least.worker_bytes)}, where a solve takes {least.steps} steps a "
            f"block ({readable(self.idle_bytes)} of interpreter, libraries and data, "
            f"{readable(self.weights_bytes + self.optimizer_bytes)} of weights and optimiser, "
            f"{readable(least.worker_bytes - self.resting_bytes)} in {least.limited_by}), and resources.memory_budget "
            f"is {readable(self.memory_budget)}"
        )

    def limit(self, gradient: GradientPlan, steps: float) -> PlannedPart | PlannedPhase:
        """Return what of a run holds the most, with one of the gradients and so many steps of each solve."""
        parts: list[PlannedPart | PlannedPhase] = [gradient.part(steps), *self.phases]
        return max(parts, key=lambda part: part.bytes(steps))

    def worker_bytes(self, gradient: GradientPlan, steps: float) -> int:
        """Return all that a worker then holds."""
        return self.resting_bytes + round(self.limit(gradient, steps).bytes(steps))

    def stored(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        values: dict[str, Any] = json.loads(self.model_dump_json())
        return values
