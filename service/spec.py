"""The job spec: what a user POSTs, with every default written out.

Pydantic only, so that the API, the workers and a user's own script can import it alike.
Every section that may grow variants is a union told apart by its ``kind``. Quantities carry their unit in their
name (``max_minutes``) or in their value (``memory_budget: "12GiB"``).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

__all__ = ["LABEL_NAME", "JobSpec"]


class Section(BaseModel):
    """Base of every part of a spec: unknown fields are refused, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_kindly(cls, values: Any) -> Any:
        """Take the usual ``kind`` where a section names none, and ``true`` for no number (Python would, for 1)."""
        if not isinstance(values, dict):
            return values
        read = dict(values)
        for name, field in cls.model_fields.items():
            value = values.get(name)
            if isinstance(value, bool) and field.annotation is not bool:
                raise _misfit("", f"{name} is {str(value).lower()}, which is no value of it")
            kinds = _kinds(field.annotation)
            if kinds and isinstance(value, dict) and "kind" not in value:
                usual = [kind for kind, is_default in kinds.items() if is_default]
                if not usual:
                    raise _misfit("", f"{name}.kind is missing: one of {', '.join(map(repr, kinds))}")
                read[name] = {"kind": usual[0], **value}
        return read


def _kinds(annotation: Any) -> dict[str, bool]:
    """Return the kinds of a union of sections, and which of them is the default; empty for another annotation."""
    kinds = {}
    for member in get_args(annotation):
        field = member.model_fields.get("kind") if isinstance(member, type) and issubclass(member, Section) else None
        if field is not None:
            (kind,) = get_args(field.annotation)
            kinds[kind] = not field.is_required()
    return kinds


def _misfit(pointer: str, message: str) -> PydanticCustomError:
    """Return an error in our words, shown at ``pointer`` (a JSON pointer from the top) where it is about two fields."""
    context = {"message": message} | ({"pointer": pointer} if pointer else {})
    return PydanticCustomError("misfit", "{message}", context)


def _format_bytes(size: int) -> str:
    """Return ``size`` in the largest binary unit that holds it exactly, e.g. ``"12GiB"``."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def _with_unit(size: Any) -> Any:
    """Refuse a size without a unit (sizes in specs are strings, once read they are numbers)."""
    if isinstance(size, ByteSize) or (isinstance(size, str) and re.fullmatch(_MEMORY_SIZE, size.strip())):
        return size
    raise _misfit("", f"{str(size)[:50]} is no size with a unit: write 512MiB, 12GiB or 16GB")


_MEMORY_SIZE = r"\d{1,15}(\.\d{1,9})?\s*([KMGT]i?)?B"
MemorySize = Annotated[
    ByteSize,
    Field(ge=2**20, le=2**60),
    BeforeValidator(_with_unit),
    PlainSerializer(_format_bytes, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{_MEMORY_SIZE}$",
            "description": "Bytes with a unit, at least 1MiB: 512MiB, 12GiB, 16GB.",
            "examples": ["12GiB"],
        }
    ),
]


# ---------------------------------------------------------------------------------------------------------- data


class ArcsinhTransform(Section):
    """``x -> arcsinh(x / scale)``, the usual compression of cytometry's intensities."""

    kind: Literal["arcsinh"] = "arcsinh"
    scale: float = Field(150.0, gt=0, description="In the unit of the raw data.")


class StandardiseTransform(Section):
    """Zero mean and unit variance by column, fitted on the training rows only."""

    kind: Literal["standardise"] = "standardise"


Transform = Annotated[ArcsinhTransform | StandardiseTransform, Field(discriminator="kind")]


class _Data(Section):
    batch_size: int = Field(500, ge=1, le=1_000_000, description="Rows of one step, over all workers.")
    validation_fraction: float = Field(0.1, gt=0, lt=0.5)
    test_fraction: float = Field(0.1, gt=0, lt=0.5)
    split_seed: int = Field(0, ge=0, lt=2**32, description="Seed of the permutation made before the split.")


class BuiltinData(_Data):
    """A data set that ships with symadj; ``GET /api/v1/datasets`` describes them."""

    kind: Literal["builtin"]
    name: Literal["flow_cytometry"]
    transforms: tuple[Transform, ...] = (ArcsinhTransform(), StandardiseTransform())


class ToyData(_Data):
    """Two-dimensional points drawn from a known density, for smoke tests and pictures."""

    kind: Literal["toy"]
    name: Literal["eight_gaussians", "moons"]
    rows: int = Field(10_000, ge=100, le=10_000_000)
    transforms: tuple[Transform, ...] = (StandardiseTransform(),)


Data = Annotated[BuiltinData | ToyData, Field(discriminator="kind")]


# ---------------------------------------------------------------------------------------------------------- flow


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


# --------------------------------------------------------------------------------------------- solver and gradient


class AdaptiveSolver(Section):
    """An embedded Runge-Kutta pair with step-size control."""

    kind: Literal["adaptive"] = "adaptive"
    method: Literal["adaptive_heun", "fehlberg2", "bosh3", "dopri5", "tsit5", "dopri8"] = "dopri5"
    rtol: float = Field(1e-5, gt=0, le=1)
    atol: float = Field(1e-6, gt=0, le=1)
    max_steps: int = Field(1000, ge=1, le=1_000_000, description="Attempted steps of one solve, at most.")


class FixedSolver(Section):
    """A Runge-Kutta method with a fixed number of equal steps."""

    kind: Literal["fixed"]
    method: Literal["euler", "midpoint", "heun2", "heun3", "rk4", "rk4_38"] = "rk4"
    steps: int = Field(20, ge=1, le=100_000, description="Steps of one solve over one block.")


Solver = Annotated[AdaptiveSolver | FixedSolver, Field(discriminator="kind")]


class KeepStages(Section):
    """Every stage's state: nothing is computed again."""

    kind: Literal["stages"] = "stages"


class KeepSteps(Section):
    """Every step's state, as in the paper: its stages are computed again."""

    kind: Literal["steps"]


class KeepBinomial(Section):
    """At most so many states: segments of the solve are computed again (Griewank and Walther's schedule)."""

    kind: Literal["binomial"]
    states: int = Field(8, ge=2, le=1_000_000, description="Of one block's solve, on one worker.")


class KeepBudget(Section):
    """What saves most recomputation within so many bytes."""

    kind: Literal["budget"]
    size: MemorySize = Field(description="For the states of one block's solve, on one worker.")


Keep = Annotated[KeepStages | KeepSteps | KeepBinomial | KeepBudget, Field(discriminator="kind")]


class SymplecticGradient(Section):
    """Symplectic adjoint method (Matsubara et al. 2021): exact, one stage's graph at a time."""

    kind: Literal["symplectic"] = "symplectic"
    keep: Keep = KeepStages()


class BackpropGradient(Section):
    """Plain backpropagation through the solver: exact, keeps every use of the network."""

    kind: Literal["backprop"]


class OneCheckpointGradient(Section):
    """Keep the initial state and solve again with the graph: exact."""

    kind: Literal["onecheckpoint"]


class AcaGradient(Section):
    """Adaptive checkpoint adjoint (Zhuang et al. 2020): keep every step, rebuild one step's graph: exact."""

    kind: Literal["aca"]


class AdjointGradient(Section):
    """Continuous adjoint (Chen et al. 2018): a backward ODE solve; not exact."""

    kind: Literal["adjoint"]
    rtol: float | None = Field(None, gt=0, le=1, description="Of the backward solve; null: the forward one's.")
    atol: float | None = Field(None, gt=0, le=1, description="Of the backward solve; null: the forward one's.")


Gradient = Annotated[
    SymplecticGradient | BackpropGradient | OneCheckpointGradient | AcaGradient | AdjointGradient,
    Field(discriminator="kind"),
]


# -------------------------------------------------------------------------------------------------------- training


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


class _Resources(Section):
    workers: int = Field(1, ge=1, le=4096, description="DDP ranks.")
    cpus_per_worker: int = Field(1, ge=1, le=1024, description="Cores, and threads of torch, of one worker.")
    memory_budget: MemorySize | None = Field(
        None,
        description="Host memory of one worker. Ray places by it; a measured peak above it is reported as an event.",
    )


class CpuResources(_Resources):
    """Workers on CPUs, gradients averaged by gloo."""

    kind: Literal["cpu"] = "cpu"


class GpuResources(_Resources):
    """Workers with one accelerator each, gradients averaged by NCCL."""

    kind: Literal["gpu"]


Resources = Annotated[CpuResources | GpuResources, Field(discriminator="kind")]


class Evaluation(Section):
    """What is measured beside the training loss; ``evaluation: null`` leaves it all out."""

    validate_every_steps: int | None = Field(200, ge=1, description="null: no validation while training.")
    validation_rows: int = Field(2000, ge=2, description="Of the validation rows, the first so many.")
    test: bool = Field(True, description="Test NLL with the exact trace and the tolerances below.")
    tolerance_factor: float = Field(
        0.01, gt=0, le=1, description="The solver's tolerances for testing, as a fraction of training's."
    )
    mixture_components: int = Field(
        10, ge=0, le=200, description="Of the Gaussian mixture fitted for comparison; 0: no baselines."
    )
    plots: bool = True


# -------------------------------------------------------------------------------------------------------- the job


LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$"
LabelName = Annotated[str, Field(pattern=LABEL_NAME)]


class JobSpec(Section):
    """One training job."""

    name: str = Field(
        "flow",
        min_length=1,
        max_length=100,
        pattern=r"^\w[\w ._-]*$",
        description="Letters of any script, digits, space, dot, underscore and hyphen.",
    )
    labels: dict[LabelName, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict, max_length=32)
    priority: int = Field(0, ge=-100, le=100, description="Higher starts first; equals in order of arrival.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of weights, batches and probes.")
    data: Data
    flow: Flow = CnfFlow()
    solver: Solver = AdaptiveSolver()
    gradient: Gradient = SymplecticGradient()
    optimizer: Optimizer = AdamOptimizer()
    stop: Stop = StopAfterSteps()
    resources: Resources = CpuResources()
    evaluation: Evaluation | None = Evaluation()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> JobSpec:
        if self.data.batch_size % self.resources.workers:
            raise _misfit(
                "/data/batch_size",
                f"data.batch_size {self.data.batch_size} is not a multiple of resources.workers "
                f"{self.resources.workers}: every worker takes an equal share of a batch",
            )
        if self.data.kind == "toy":
            training_rows = round(self.data.rows * (1 - self.data.validation_fraction - self.data.test_fraction))
            if self.data.batch_size > training_rows:
                raise _misfit(
                    "/data/batch_size",
                    f"data.batch_size {self.data.batch_size} is larger than the {training_rows} training rows of "
                    f"data.rows {self.data.rows}: take a smaller batch, or more rows",
                )
        if self.stop.kind == "steps" and self.optimizer.schedule.warmup_steps >= self.stop.max_steps:
            raise _misfit(
                "/optimizer/schedule/warmup_steps",
                f"optimizer.schedule.warmup_steps {self.optimizer.schedule.warmup_steps} is not below stop.max_steps "
                f"{self.stop.max_steps}: the rate would never be reached",
            )
        if self.solver.kind == "fixed" and self.gradient.kind == "adjoint":
            for name in ("rtol", "atol"):
                if getattr(self.gradient, name) is not None:
                    raise _misfit(
                        f"/gradient/{name}",
                        f"gradient.{name} is the tolerance of an adaptive backward solve; solver.kind fixed has none: "
                        "leave it out, or take solver.kind adaptive",
                    )
        if self.optimizer.schedule.kind == "cosine" and self.stop.kind != "steps":
            raise _misfit(
                "/optimizer/schedule/kind",
                "optimizer.schedule.kind cosine needs stop.kind steps: the decay ends at the last step, "
                "which stop.kind minutes does not know",
            )
        return self

    def stored(self) -> dict[str, Any]:
        """Return the spec as JSON values with every default written out."""
        return self.model_dump(mode="json")
