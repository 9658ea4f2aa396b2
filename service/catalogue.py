"""The built-in data sets, described without loading them."""

from __future__ import annotations

from dataclasses import dataclass

from symadj.service.contract.spec.data import BUILTIN_COLUMNS, BUILTIN_ROWS, TOY_COLUMNS, BuiltinName

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


def _scikit_learn(name: BuiltinName, description: str, origin: str) -> Dataset:
    return Dataset(
        kind="builtin",
        name=name,
        description=description,
        rows=BUILTIN_ROWS[name],
        dim=BUILTIN_COLUMNS[name],
        licence="BSD-3-Clause (as a part of scikit-learn)",
        source=f"{origin}, as scikit-learn ships it; without labels.",
        reference_test_nll={},
    )


def _toy(name: str, description: str) -> Dataset:
    return Dataset(
        kind="toy",
        name=name,
        description=f"{description}; as many rows as asked for.",
        rows=None,
        dim=TOY_COLUMNS,
        licence="MIT",
        source="Drawn from the job's split seed.",
        reference_test_nll={},
    )


BUILTIN = (
    Dataset(
        kind="builtin",
        name="flow_cytometry",
        description="Flow cytometry: area and height channels of 110,000 cells from 11 wells of two plates.",
        rows=BUILTIN_ROWS["flow_cytometry"],
        dim=BUILTIN_COLUMNS["flow_cytometry"],
        licence="MIT",
        source="Test data of FlowCytometryTools 0.5.1 (Plate01, Plate02), read with flowio.",
        reference_test_nll={
            "gaussian": 7.75,
            "gaussian_mixture_10": 3.48,
            "gaussian_mixture_30": 3.05,
            "neural_spline_flow_10_minutes": 2.93,
        },
    ),
    _scikit_learn("iris", "Lengths and widths of sepals and petals of three species of iris, in cm.", "Fisher 1936"),
    _scikit_learn(
        "wine", "Chemical analyses of wines of three cultivars.", "Wine recognition data of the UCI repository"
    ),
    _scikit_learn(
        "breast_cancer",
        "Features of cell nuclei in images of breast masses.",
        "Breast Cancer Wisconsin (Diagnostic) of the UCI repository",
    ),
    _scikit_learn(
        "diabetes",
        "Age, body mass, blood pressure and six blood values of diabetes patients, in units of measurement; without "
        "sex, which has two values and so no density.",
        "Efron, Hastie, Johnstone and Tibshirani 2004",
    ),
    _scikit_learn(
        "digits",
        "Handwritten digits, 8 x 8 pixels of 17 levels; dequantised.",
        "Test set of the Optical Recognition of Handwritten Digits of the UCI repository",
    ),
    _toy("eight_gaussians", "Eight Gaussians on a circle"),
    _toy("pinwheel", "Five bent arms around the origin"),
    _toy("checkerboard", "Uniform on the black fields of a board of four by four"),
    _toy("moons", "Two interleaved half circles with noise"),
    _toy("rings", "Four circles around the origin, with noise"),
    _toy("swiss_roll", "One spiral with noise"),
    _toy("spirals", "Two interleaved spirals with noise"),
)
