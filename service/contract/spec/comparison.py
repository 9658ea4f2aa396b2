"""One training by several gradients, to compare them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator

from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.spec.job import JobSpec
from symadj.service.contract.spec.section import Section, as_field, misfit
from symadj.service.contract.spec.solver import Gradient, NamedGradient, SymplecticGradient

__all__ = ["COMPARISON", "MOST_GRADIENTS", "ComparisonRequest"]

# The label that the jobs of a comparison share.
COMPARISON = "comparison"
MOST_GRADIENTS = 16
# Validation rows by which every gradient is compared with backpropagation, where the spec names none.
_GRADIENT_ROWS = 100


def _without_discriminator(schema: dict[str, Any]) -> None:
    """Leave it out of the schema of the list: OpenAPI has it where the ``kind`` is required."""
    for choice in schema["anyOf"]:
        choice.get("items", {}).pop("discriminator", None)


class ComparisonRequest(Section):
    """One spec, trained once by each of several gradients: the same data, weights, batches and steps."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "spec": {"data": {"kind": "toy", "name": "moons"}},
                    "gradients": [{"kind": "symplectic"}, {"kind": "backprop"}],
                    "max_steps": 200,
                }
            ]
        }
    )

    spec: Annotated[JobSpec, as_field("spec")] = Field(description="Of all of them, but for its gradient.")
    gradients: Literal["all"] | Annotated[tuple[Gradient, ...], Field(min_length=1, max_length=MOST_GRADIENTS)] = Field(
        "all",
        description="all: every kind but auto, each with its defaults.",
        json_schema_extra=_without_discriminator,
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="A short training instead of the spec's: so many steps of the likelihood, at a constant rate and "
        "without pre-training. null: as the spec says.",
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_kind(cls, values: Any) -> Any:
        """Fill in the default kind of a gradient, as a spec does."""
        if not isinstance(values, dict) or not isinstance(values.get("gradients"), list):
            return values
        usual = {"kind": SymplecticGradient.model_fields["kind"].default}
        return values | {
            "gradients": [usual | item if isinstance(item, dict) else item for item in values["gradients"]]
        }

    @model_validator(mode="after")
    def _every_job_is_right(self) -> Self:
        for number, gradient in enumerate(self.chosen):
            try:
                self.job(gradient, "")
            except ValidationError as error:
                found = error.errors(include_url=False)[0]
                where = "/gradients" if self.gradients == "all" else f"/gradients/{number}"
                raise misfit(where, f"the spec with gradient.kind {gradient.kind}: {found['msg']}") from error
        return self

    @property
    def chosen(self) -> tuple[Gradient, ...]:
        """The gradients, each with its options."""
        if self.gradients == "all":
            return tuple(section(kind=section.model_fields["kind"].annotation.__args__[0]) for section in _NAMED)
        return self.gradients

    def job(self, gradient: Gradient, comparison: str) -> JobSpec:
        """Return the spec of the job with this gradient.

        Args:
            gradient: one of ``chosen``.
            comparison: its id, for the label.

        Raises:
            ValidationError: the gradient does not fit the rest.
        """
        values: dict[str, Any] = self.spec.stored()
        evaluation = values["evaluation"] or Evaluation(
            validate_every_steps=None, mixture_components=0, inverse_rows=0, two_sample_rows=0, plots=False
        ).model_dump(mode="json")
        return JobSpec.model_validate(
            values
            | {
                "name": f"{self.spec.name[:80]} {gradient.kind}",
                "labels": values["labels"] | {COMPARISON: comparison},
                "gradient": gradient.model_dump(mode="json"),
                **self._short_training(values["optimizer"]),
                "evaluation": evaluation | {"gradient_rows": evaluation["gradient_rows"] or _GRADIENT_ROWS},
            }
        )

    def _short_training(self, optimizer: dict[str, Any]) -> dict[str, Any]:
        """Return the sections that ``max_steps`` changes."""
        if self.max_steps is None:
            return {}
        stop = {"kind": "steps", "max_steps": self.max_steps}
        return {"stop": stop, "pretraining": None, "optimizer": optimizer | {"schedule": {"kind": "constant"}}}


_NAMED = get_args(NamedGradient)
