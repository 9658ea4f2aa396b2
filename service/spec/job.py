"""The whole spec, and what must hold between its parts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from service.spec.data import Data
from service.spec.evaluation import Evaluation
from service.spec.flow import CnfFlow, Flow
from service.spec.resources import CpuResources, Resources
from service.spec.section import Section, misfit
from service.spec.solver import AdaptiveSolver, Gradient, Solver, SymplecticGradient
from service.spec.training import AdamOptimizer, Optimizer, Stop, StopAfterSteps

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
            raise misfit(
                "/data/batch_size",
                f"data.batch_size {self.data.batch_size} is not a multiple of resources.workers "
                f"{self.resources.workers}: every worker takes an equal share of a batch",
            )
        if self.data.kind == "toy":
            training_rows = round(self.data.rows * (1 - self.data.validation_fraction - self.data.test_fraction))
            if self.data.batch_size > training_rows:
                raise misfit(
                    "/data/batch_size",
                    f"data.batch_size {self.data.batch_size} is larger than the {training_rows} training rows of "
                    f"data.rows {self.data.rows}: take a smaller batch, or more rows",
                )
        if self.stop.kind == "steps" and self.optimizer.schedule.warmup_steps >= self.stop.max_steps:
            raise misfit(
                "/optimizer/schedule/warmup_steps",
                f"optimizer.schedule.warmup_steps {self.optimizer.schedule.warmup_steps} is not below stop.max_steps "
                f"{self.stop.max_steps}: the rate would never be reached",
            )
        if self.solver.kind == "fixed" and self.gradient.kind == "adjoint":
            for name in ("rtol", "atol"):
                if getattr(self.gradient, name) is not None:
                    raise misfit(
                        f"/gradient/{name}",
                        f"gradient.{name} is the tolerance of an adaptive backward solve; solver.kind fixed has none: "
                        "leave it out, or take solver.kind adaptive",
                    )
        if self.optimizer.schedule.kind == "cosine" and self.stop.kind != "steps":
            raise misfit(
                "/optimizer/schedule/kind",
                "optimizer.schedule.kind cosine needs stop.kind steps: the decay ends at the last step, "
                "which stop.kind minutes does not know",
            )
        return self

    def stored(self) -> dict[str, Any]:
        """Return the spec as JSON values with every default written out."""
        return self.model_dump(mode="json")
