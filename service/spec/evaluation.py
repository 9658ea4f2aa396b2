"""What is measured beside the training loss."""

from __future__ import annotations

from pydantic import Field

from service.spec.flow import Divergence, ExactDivergence
from service.spec.section import Section


class Evaluation(Section):
    """What is measured beside the training loss; ``evaluation: null`` leaves it all out."""

    validate_every_steps: int | None = Field(200, ge=1, description="null: no validation while training.")
    validation_rows: int = Field(2000, ge=2, description="Of the validation rows, the first so many.")
    test: bool = Field(
        True,
        description="Test NLL with the divergence and tolerances below, beside the one at training's tolerances.",
    )
    test_rows: int | None = Field(None, ge=2, description="Of the test rows, the first so many; null: all.")
    divergence: Divergence = Field(
        ExactDivergence(kind="exact"),
        description="For the test NLL. The exact one takes as many products as there are columns, too many for "
        "images; an estimate is unbiased, and its noise is in the standard error.",
    )
    tolerance_factor: float = Field(
        0.01, gt=0, le=1, description="The solver's tolerances for testing, as a fraction of training's."
    )
    mixture_components: int = Field(
        10, ge=0, le=200, description="Of the Gaussian mixture fitted for comparison; 0: no baselines."
    )
    inverse_rows: int = Field(
        1000, ge=0, description="Test rows carried to the base and back, at training's tolerances; 0: none."
    )
    two_sample_rows: int = Field(
        5000,
        ge=0,
        description="Test rows, and samples, that a classifier has to tell apart; with fewer than 40: no such test.",
    )
    plots: bool = True
