"""The rows that a flow is trained on, and the transforms between them and the flow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.spec.section import Section


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
