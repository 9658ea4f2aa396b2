"""The job spec: what a user POSTs, with every default written out.

Pydantic only, so that the API, the workers and a user's own script can import it alike. :class:`JobSpec` is the whole
of a training, :class:`ScoresSpec` of a job that scores rows; their sections are in the module of their subject
(``spec.flow``, ``spec.solver`` ...). Every section that may grow variants is a union discriminated by its ``kind``, and
so is the whole: a training has no ``kind``. Quantities carry their unit in their name (``max_minutes``) or in their
value (``memory_budget: "12GiB"``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag, ValidationError

from symadj.service.contract.spec.any_job import AnyJob
from symadj.service.contract.spec.job import JobSpec
from symadj.service.contract.spec.scores import ScoresSpec

__all__ = [
    "SCORES",
    "TRAINING",
    "AnyJob",
    "AnySpec",
    "JobSpec",
    "ScoresSpec",
    "changes_of_stored",
    "kind_of",
    "spec_of_stored",
]

TRAINING, SCORES = "training", "scores"


def kind_of(spec: Any) -> str:
    """Return what a job does by its spec, or by the JSON values of it: ``training`` or ``scores``."""
    kind = spec.get("kind") if isinstance(spec, Mapping) else getattr(spec, "kind", None)
    return SCORES if kind == SCORES else TRAINING


AnySpec = Annotated[
    Annotated[JobSpec, Tag(TRAINING)] | Annotated[ScoresSpec, Tag(SCORES)],
    Discriminator(kind_of),
]


def spec_of_stored(values: dict[str, Any]) -> JobSpec | ScoresSpec:
    """Return the spec of a job as the store has it (:meth:`AnyJob.of_stored`).

    Raises:
        ValidationError: this version can't read it.
    """
    return (ScoresSpec if kind_of(values) == SCORES else JobSpec).of_stored(values)


def changes_of_stored(values: dict[str, Any]) -> dict[str, Any] | None:
    """Return those fields of a stored spec that differ from their defaults; None where this version can't read it."""
    try:
        return spec_of_stored(values).model_dump(mode="json", exclude_defaults=True)
    except ValidationError:
        return None
