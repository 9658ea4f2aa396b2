"""The built-in data sets, described without loading them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BUILTIN", "Dataset"]


@dataclass(frozen=True)
class Dataset:
    """What a user should know of a data set before naming it in a spec.

    ``reference_test_nll``: nats, in the space after the default transforms, on the default split.
    """

    kind: str
    name: str
    description: str
    rows: int | None
    dim: int
    licence: str
    source: str
    reference_test_nll: dict[str, float]


BUILTIN = (
    Dataset(
        kind="builtin",
        name="flow_cytometry",
        description="Flow cytometry: area and height channels of 110,000 cells from 11 wells of two plates.",
        rows=110_000,
        dim=10,
        licence="MIT",
        source="Test data of FlowCytometryTools 0.5.1 (Plate01, Plate02), read with flowio.",
        reference_test_nll={
            "gaussian": 7.75,
            "gaussian_mixture_10": 3.48,
            "gaussian_mixture_30": 3.05,
            "neural_spline_flow_10_minutes": 2.93,
        },
    ),
    Dataset(
        kind="toy",
        name="eight_gaussians",
        description="Eight Gaussians on a circle; as many rows as asked for.",
        rows=None,
        dim=2,
        licence="MIT",
        source="Drawn from the job's split seed.",
        reference_test_nll={},
    ),
    Dataset(
        kind="toy",
        name="moons",
        description="Two interleaved half circles with noise; as many rows as asked for.",
        rows=None,
        dim=2,
        licence="MIT",
        source="Drawn from the job's split seed.",
        reference_test_nll={},
    ),
)
