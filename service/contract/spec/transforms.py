"""The transforms between the raw rows and the flow, and names of columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from symadj.service.contract.spec.section import Section, misfit

ColumnName = Annotated[str, Field(min_length=1, max_length=200)]


def refuse_twice(columns: Iterable[str], pointer: str = "") -> None:
    """Refuse a column that is named more than once; ``pointer`` is for an error about two fields."""
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise misfit(pointer, f"a column can be named only once; named more often: {', '.join(twice)}")


def _named_once(columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    refuse_twice(columns or ())
    return columns


SomeColumns = Annotated[
    tuple[ColumnName, ...] | None,
    Field(min_length=1, max_length=10_000, description="Which columns; the others stay as they are. Default: all."),
    AfterValidator(_named_once),
]


class ArcsinhTransform(Section):
    """``x -> arcsinh(x / scale)``, the usual compression of cytometry's intensities."""

    kind: Literal["arcsinh"]
    scale: float = Field(150.0, gt=0, description="In the unit of the raw data.")
    columns: SomeColumns = None


class StandardiseTransform(Section):
    """Zero mean and unit variance by column, fitted on the training rows only."""

    kind: Literal["standardise"]
    columns: SomeColumns = None


class LogitTransform(Section):
    """``x -> log(s / (1 - s))`` with ``s = alpha + (1 - 2 alpha) x``, for values from 0 to 1 (Dinh et al. 2017)."""

    kind: Literal["logit"]
    alpha: float = Field(1e-6, gt=0, lt=0.5, description="Keeps 0 and 1 finite; 1e-6 for MNIST, 0.05 for photographs.")
    columns: SomeColumns = None


class DequantiseTransform(Section):
    """``k -> (k + u) / levels`` for whole numbers ``k`` from 0 to ``levels - 1``, with ``u`` uniform on [0, 1).

    A training row gets new noise in every epoch, a held-out row keeps its own: the noise is a function of
    (``data.split_seed``, epoch, row) alone. NLL in original units is then an upper bound of the discrete NLL
    (Theis et al. 2016), and divided by ``dim * log(2)`` it is bits/dim.
    """

    kind: Literal["dequantise"]
    levels: int = Field(256, ge=2, le=65_536, description="Number of possible values: 256 for bytes.")


Transform = Annotated[
    ArcsinhTransform | StandardiseTransform | LogitTransform | DequantiseTransform, Field(discriminator="kind")
]


def _dequantise_first(transforms: tuple[Transform, ...]) -> tuple[Transform, ...]:
    if any(transform.kind == "dequantise" for transform in transforms[1:]):
        raise misfit("", "dequantise takes whole numbers, so it must be the first of the transforms")
    return transforms


Transforms = Annotated[tuple[Transform, ...], Field(max_length=8), AfterValidator(_dequantise_first)]
