"""What is measured beside the training loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from symadj.service.contract.spec.flow import (
    BaseDivergence,
    ExactDivergence,
    HutchinsonDivergence,
    HutchPlusPlusDivergence,
)
from symadj.service.contract.spec.section import Section
from symadj.service.contract.spec.solver import MOST_FIXED_STEPS


class AutomaticDivergence(BaseDivergence):
    """The exact trace if it is affordable, else Hutchinson's estimate with Rademacher probes.

    It is affordable if the field has it in closed form, or in few dimensions.
    """

    kind: Literal["automatic"] = "automatic"
    exact_up_to: int = Field(
        128, ge=1, le=65_536, description="Up to this many columns the exact trace is always taken."
    )
    probes: int = Field(
        4,
        ge=1,
        le=1024,
        description="Of the estimate; every row has its own. It is unbiased, and its noise is in the standard error; "
        "more rows reduce that faster than more probes do.",
    )


TestDivergence = Annotated[
    AutomaticDivergence | ExactDivergence | HutchinsonDivergence | HutchPlusPlusDivergence, Field(discriminator="kind")
]


# No data set has more rows.
MOST_ROWS = 10**12


class Evaluation(Section):
    """What is measured beside the training loss; ``evaluation: null`` omits all of it."""

    validate_every_steps: int | None = Field(
        200, ge=1, le=100_000_000, description="null: no validation while training."
    )
    validate_every_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Passes over the training rows: of few rows, validate as often as that if it is more often than "
        "`validate_every_steps`. null: by the steps alone.",
    )
    validation_rows: int = Field(2000, ge=2, le=MOST_ROWS, description="Use the first so many validation rows.")
    test: bool = Field(
        True,
        description="Test NLL with the divergence and tolerances below, beside the one at training's tolerances.",
    )
    test_rows: int | None = Field(None, ge=2, le=MOST_ROWS, description="Use the first so many test rows; null: all.")
    divergence: TestDivergence = Field(
        AutomaticDivergence(), description="For the test NLL; the result's `test_solver` shows which was used."
    )
    tolerance_factor: float = Field(
        0.01,
        ge=1e-6,
        le=1,
        description="The solver's tolerances for testing, as a fraction of training's. A fixed solver takes as many "
        f"more steps, up to {MOST_FIXED_STEPS:,}.",
    )
    mixture_components: int = Field(
        10,
        ge=0,
        le=200,
        description="Of the Gaussian mixture that is fitted for comparison, beside a Gaussian; 0: neither.",
    )
    inverse_rows: int = Field(
        1000,
        ge=0,
        le=MOST_ROWS,
        description="Test rows carried to the base and back with training's solver; 0: none.",
    )
    gradient_rows: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Validation rows by which the gradient of the trained weights is compared with backpropagation in "
        "float64, which holds every use of the network; 0: no such comparison.",
    )
    two_sample_rows: int = Field(
        5000,
        ge=0,
        le=MOST_ROWS,
        description="Test rows, and as many samples, that a classifier must tell apart; below 40: no such test.",
    )
    calibration_rows: int = Field(
        500,
        ge=0,
        le=MOST_ROWS,
        description="Test rows whose places among draws for their contexts are measured, of a conditional flow of "
        "rows that are no images; below 20: none.",
    )
    calibration_draws: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Draws for each of them. The noise of the measurement depends on the rows; more draws resolve the "
        "tails better.",
    )
    plots: bool = Field(True, description="Draw pictures and, for two-dimensional data, integrate the density.")
    plot_units: Literal["original", "transformed"] = Field(
        "original",
        description="Of the axes of rows and trajectories, and of the density: `original` is the data's own, "
        "`transformed` what the flow sees. Images are always drawn as images, likelihoods after the transforms.",
    )
