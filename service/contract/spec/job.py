"""The whole spec, and what must hold between its parts."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from symadj.service.contract.spec.alerts import Alerts
from symadj.service.contract.spec.any_job import AnyJob, JobName
from symadj.service.contract.spec.data import FORMATS_OF_IMAGES, Data
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.spec.flow import BaseDivergence, CnfFlow, Flow
from symadj.service.contract.spec.objective import Pretraining, Regulariser
from symadj.service.contract.spec.recovery import Checkpoints, FailOnDivergence, OnDivergence, Parent
from symadj.service.contract.spec.section import STORED, misfit
from symadj.service.contract.spec.solver import AdaptiveSolver, Gradient, Solver, SymplecticGradient
from symadj.service.contract.spec.training import (
    AdamOptimizer,
    EarlyStop,
    MovingAverage,
    Optimizer,
    Stop,
    StopAfterSteps,
)
from symadj.service.contract.spec.usual import with_usual_training


class JobSpec(AnyJob):
    """One training job.

    With none of `regularisers`, `pretraining`, `optimizer`, `ema`, `stop` and `early_stop` it gets the usual training:
    flow matching, then the likelihood, and a flow, a solver and an evaluation that suit them where it has none of its
    own. With any of them, whatever is left out has the default that is shown here. The stored spec has all of it.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"data": {"kind": "toy", "name": "moons"}},
                {
                    "name": "cytometry",
                    "labels": {"team": "x"},
                    "data": {"kind": "builtin", "name": "flow_cytometry", "batch_size": 500},
                    "flow": {"kind": "cnf", "blocks": 2, "field": {"kind": "mlp", "hidden": [64, 64]}},
                    "solver": {"kind": "adaptive", "method": "dopri5", "rtol": 1e-3, "atol": 1e-4},
                    "gradient": {"kind": "symplectic"},
                    "optimizer": {"kind": "adam", "learning_rate": 0.01, "schedule": {"kind": "cosine"}},
                    "stop": {"kind": "steps", "max_steps": 2000},
                    "resources": {"kind": "cpu", "workers": 2, "memory_budget": "2GiB"},
                },
            ]
        }
    )

    name: JobName = "flow"
    seed: int = Field(0, ge=0, lt=2**32, description="Of weights, batches and probes.")
    data: Data = Field(description="Which rows the flow is trained on, how they are split and transformed.")
    flow: Flow = Field(CnfFlow(), description="The model.")
    solver: Solver = Field(AdaptiveSolver(), description="How its ODE is solved, in training.")
    gradient: Gradient = Field(
        SymplecticGradient(), description="Default: auto where resources.memory_budget is given, else symplectic."
    )
    regularisers: tuple[Regulariser, ...] = Field((), max_length=8, description="Penalties beside the NLL.")
    pretraining: Pretraining | None = Field(
        None, description="Flow matching, which solves no ODE, before the likelihood; null: none."
    )
    optimizer: Optimizer = Field(AdamOptimizer(), description="How the weights follow the gradient.")
    ema: MovingAverage | None = Field(
        None, description="An average of the weights, which is what is evaluated and stored; null: none."
    )
    stop: Stop = Field(StopAfterSteps(), description="When the training ends.")
    early_stop: EarlyStop | None = Field(
        None, description="End it where the validation no longer improves, and keep the best weights; null: don't."
    )
    evaluation: Evaluation | None = Field(Evaluation(), description="What is measured on held-out rows; null: nothing.")
    checkpoints: Checkpoints = Field(
        Checkpoints(), description="When training states are written, from which the job goes on after a loss."
    )
    on_divergence: OnDivergence = Field(
        FailOnDivergence(), description="What follows a loss or a gradient that is not finite."
    )
    alerts: Alerts = Field(Alerts(), description="What of the training somebody is told before its end.")
    parent: Parent | None = Field(None, description="Go on from a checkpoint of another job.")

    @model_validator(mode="before")
    @classmethod
    def _use_the_budget(cls, values: Any) -> Any:
        """Choose ``gradient.kind: auto`` where a budget is given and no gradient."""
        if not isinstance(values, dict) or "gradient" in values or not isinstance(values.get("resources"), dict):
            return values
        return values if values["resources"].get("memory_budget") is None else values | {"gradient": {"kind": "auto"}}

    @model_validator(mode="before")
    @classmethod
    def _usual_training(cls, values: Any, info: ValidationInfo) -> Any:
        if isinstance(values, dict) and info.context != STORED:  # a stored spec has every section written out
            return with_usual_training(values)
        return values

    @model_validator(mode="after")
    def _parts_fit_together(self, info: ValidationInfo) -> JobSpec:
        self._fill_in_batch()
        self._check_batch()
        self._check_images()
        self._check_gradient()
        self._check_steps()
        self._check_elasticity()
        self._check_validations()
        self._check_regularisers()
        if info.context != STORED:  # earlier versions accepted it
            self._check_divergences()
        return self

    @property
    def rows_to_share(self) -> int:
        """Those of a batch; where it goes by the rows of a file, it has equal shares for all workers at least."""
        return self.data.batch_size or self.resources.workers

    @property
    def batch_size(self) -> int:
        """Rows of one step, over all workers; the most that it may be where it goes by the rows of a file."""
        return self.data.batch_size or self._usual_batch_size(self.data.usual_batch_size)

    def for_rows(self, training_rows: int) -> JobSpec:
        """Return what is trained on so many rows.

        That has a batch where the spec names none, the steps of pre-training that its ``max_epochs`` leaves, and
        validations as often as ``validate_every_epochs`` says. The steps of the likelihood stay as many.
        """
        batch_size = self.data.batch_size or self._usual_batch_size(training_rows)
        changed: dict[str, Any] = {}
        if batch_size != self.data.batch_size:
            changed["data"] = self.data.model_copy(update={"batch_size": batch_size})
        pretraining = self.pretraining
        if pretraining is not None and pretraining.max_epochs is not None:
            steps = min(pretraining.steps, max(1, pretraining.max_epochs * training_rows // batch_size))
            changed["pretraining"] = pretraining.model_copy(update={"steps": steps})
            if isinstance(self.stop, StopAfterSteps):
                fewer = pretraining.steps - steps
                changed["stop"] = self.stop.model_copy(update={"max_steps": self.stop.max_steps - fewer})
        evaluation = self.evaluation
        if evaluation is not None and evaluation.validate_every_steps and evaluation.validate_every_epochs:
            steps = max(1, evaluation.validate_every_epochs * training_rows // batch_size)
            every = min(evaluation.validate_every_steps, steps)
            changed["evaluation"] = evaluation.model_copy(update={"validate_every_steps": every})
        return self.model_copy(update=changed) if changed else self

    def too_few(self, training_rows: int) -> str | None:
        """Return why so many rows are too few for the workers; None if they are enough."""
        workers = self.resources.workers
        if training_rows >= workers:
            return None
        return (
            f"resources.workers {workers} is more than the {training_rows} training rows: every worker takes an equal "
            "share of a batch, a row at least; take fewer workers, or more rows"
        )

    def _usual_batch_size(self, training_rows: int) -> int:
        workers = self.resources.workers
        return max(1, min(self.data.usual_batch_size, training_rows) // workers) * workers

    def _fill_in_batch(self) -> None:
        rows = self.data.training_rows
        if rows is None:
            return
        if (why := self.too_few(rows)) is not None:
            raise misfit("/resources/workers", why)
        if self.data.batch_size is None:
            data = self.data.model_copy(update={"batch_size": self._usual_batch_size(rows)})
            # Past the frozen model's own setter, and not by a copy: a validator returns what it was given.
            self.__dict__["data"] = data

    def _check_batch(self) -> None:
        if self.rows_to_share % self.resources.workers:
            raise misfit(
                "/data/batch_size",
                f"data.batch_size {self.data.batch_size} is not a multiple of resources.workers "
                f"{self.resources.workers}: every worker takes an equal share of a batch",
            )

    def _check_images(self) -> None:
        """Refuse a flow of images where the spec alone shows that the data are not images."""
        if self.flow.needs_images and not self.data.may_hold_images:
            raise misfit(
                "/flow/kind",
                f"flow.kind {self.flow.kind} takes images, and these data (data.kind {self.data.kind}) are not images: "
                f"take digits or a file of format {', '.join(FORMATS_OF_IMAGES)} without a choice of columns, or "
                "flow.kind cnf",
            )

    def _check_gradient(self) -> None:
        if (refused := self.gradient.refused(self.solver)) is not None:
            name, why = refused
            raise misfit(f"/gradient/{name}", why)
        resources = self.resources
        if self.gradient.kind == "auto" and resources.kind == "cpu" and resources.memory_budget is None:
            raise misfit(
                "/gradient/kind",
                "gradient.kind auto fits what it keeps into resources.memory_budget, and there is none: set it, or "
                "take gradient.kind symplectic",
            )

    def _check_divergences(self) -> None:
        """Refuse what the columns do not allow, where the spec alone shows them."""
        if self.data.dim is None:
            return
        moved = self.flow.fewest_moved(self.data.dim)
        sections: dict[str, BaseDivergence] = {"flow": self.flow.divergence}
        if self.evaluation is not None:
            sections["evaluation"] = self.evaluation.divergence
        for section, divergence in sections.items():
            if (refused := divergence.refused(moved)) is not None:
                name, why = refused
                raise misfit(f"/{section}/divergence/{name}", f"{section}.divergence: {why}")

    def _check_steps(self) -> None:
        schedule, pretraining = self.optimizer.schedule, self.pretraining
        if schedule.needs_last_step and self.stop.kind != "steps":
            raise misfit(
                "/optimizer/schedule/kind",
                f"optimizer.schedule.kind {schedule.kind} needs stop.kind steps: the decay ends at the last step, "
                "which stop.kind minutes does not know",
            )
        if pretraining is not None and pretraining.schedule.warmup_steps >= pretraining.steps:
            raise misfit(
                "/pretraining/schedule/warmup_steps",
                f"pretraining.schedule.warmup_steps {pretraining.schedule.warmup_steps} is not below "
                f"pretraining.steps {pretraining.steps}: the rate would never be reached",
            )
        if self.stop.kind != "steps":
            return
        steps, of = self.stop.max_steps, f"stop.max_steps {self.stop.max_steps}"
        if pretraining is not None:
            if pretraining.steps >= steps:
                raise misfit(
                    "/pretraining/steps",
                    f"pretraining.steps {pretraining.steps} is not below {of}, which counts both: no step would be "
                    "left for the likelihood",
                )
            steps, of = steps - pretraining.steps, f"{of} less the {pretraining.steps} of pretraining"
        if schedule.warmup_steps >= steps:
            raise misfit(
                "/optimizer/schedule/warmup_steps",
                f"optimizer.schedule.warmup_steps {schedule.warmup_steps} is not below {of}: "
                "the rate would never be reached",
            )

    def _check_validations(self) -> None:
        if self.evaluation is not None and self.evaluation.validate_every_steps is not None:
            return
        schedule = self.optimizer.schedule
        for asks, pointer, name in (
            (schedule.needs_validations, "/optimizer/schedule/kind", f"optimizer.schedule.kind {schedule.kind}"),
            (self.early_stop is not None, "/early_stop", "early_stop"),
        ):
            if asks:
                raise misfit(
                    pointer,
                    f"{name} goes by the validation NLL, and nothing is validated: set evaluation.validate_every_steps",
                )

    def _check_regularisers(self) -> None:
        kinds = [regulariser.kind for regulariser in self.regularisers]
        for place, regulariser in enumerate(self.regularisers):
            at, schedule = f"regularisers/{place}", regulariser.schedule
            if (why := regulariser.refused(self.flow)) is not None:
                raise misfit(f"/{at}/kind", why)
            if regulariser.kind in kinds[:place]:
                raise misfit(f"/{at}/kind", f"the regulariser {regulariser.kind} stands twice: give it one weight")
            if schedule.kind == "linear" and schedule.to_step <= schedule.from_step:
                raise misfit(
                    f"/{at}/schedule/to_step",
                    f"to_step {schedule.to_step} is not after from_step {schedule.from_step} of the regulariser "
                    f"{regulariser.kind}",
                )
