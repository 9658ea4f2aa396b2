"""What every job's spec has, whatever is computed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Self

from pydantic import Field

from symadj.service.contract.spec.resources import CpuResources, Resources
from symadj.service.contract.spec.section import STORED, Section, misfit

LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$"
# A label as a filter names it, `name=value`.
LABEL = LABEL_NAME.replace("$", "=")
MOST_LABELS = 32
LabelName = Annotated[str, Field(pattern=LABEL_NAME)]
# What the pattern leaves out, every text of a spec is refused for.
LabelValue = Annotated[str, Field(max_length=256, json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"})]
JobName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=100,
        pattern=r"^\w[\w ._-]*$",
        description="Letters of any script, digits, space, dot, underscore and hyphen.",
    ),
]


class AnyJob(Section):
    """What a job is called, and what it may take of the cluster."""

    name: JobName
    labels: dict[LabelName, LabelValue] = Field(
        default_factory=dict,
        max_length=MOST_LABELS,
        description="Names and values by which lists and webhooks select jobs; they can be changed later.",
    )
    priority: int = Field(0, ge=-100, le=100, description="Higher starts first; equals in order of arrival.")
    resources: Resources = Field(CpuResources(), description="Workers, and what each of them may take.")
    max_attempts: int = Field(
        5,
        ge=1,
        le=1000,
        description="Attempts in a row that may lose their workers or their cluster without a new checkpoint between.",
    )
    timeout_minutes: float | None = Field(
        None, gt=0, le=60 * 24 * 365, description="Of all attempts together, from their start; null: no limit."
    )

    @property
    @abstractmethod
    def rows_to_share(self) -> int:
        """How many rows the workers must share equally; 0 where they need not, and any number of workers will do."""

    def _check_elasticity(self) -> None:
        fewest, most = self.resources.min_workers, self.resources.workers
        if fewest is not None and fewest > most:
            raise misfit(
                "/resources/min_workers",
                f"resources.min_workers {fewest} is above resources.workers {most}, the most that the job takes",
            )

    @classmethod
    def of_stored(cls, values: dict[str, Any]) -> Self:
        """Return a spec that was accepted before, perhaps by an earlier version, from what ``stored`` returned.

        Raises:
            ValidationError: this version can't read it.
        """
        return cls.model_validate(values, context=STORED)

    def stored(self) -> dict[str, Any]:
        """Return the spec as JSON values with every default written out."""
        return self.model_dump(mode="json")
