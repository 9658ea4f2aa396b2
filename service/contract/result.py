"""What came of a job that succeeded."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

__all__ = [
    "Baselines",
    "EvaluationResult",
    "InverseError",
    "JobResult",
    "MixtureBaseline",
    "Number",
    "TestSolver",
    "TwoSampleTest",
]

# JSON has no NaN and no infinity: these travel as the strings "NaN", "Infinity" and "-Infinity".
Number = Annotated[
    float,
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]}),
]


class _Part(BaseModel):
    """Base: fixed once made; what another version has stored beside these fields is kept."""

    model_config = ConfigDict(extra="allow", frozen=True, from_attributes=True, ser_json_inf_nan="strings")


class MixtureBaseline(_Part):
    """A Gaussian mixture with full covariances, fitted to as many training rows as take some minutes."""

    components: int = Field(description="Of the mixture.")
    test_nll: Number | None = Field(
        None, description="Nats a row; null where it can't be fitted, or a component would have too few rows."
    )


class Baselines(_Part):
    """Classical densities on the same test rows, in the same space as ``test_nll``."""

    gaussian: Number | None = Field(
        None, description="NLL of a Gaussian, nats a row; null where the columns depend on each other."
    )
    gaussian_mixture: MixtureBaseline | None = None


class TestSolver(_Part):
    """How the test likelihood was solved."""

    __test__ = False  # not a test case, whatever its name

    divergence: str = Field("exact", description="Its kind: `exact`, or an estimate.")
    probes: int | None = Field(None, description="Of an estimate, for each row its own.")
    method: str | None = Field(None, description="The solver's.")
    dtype: str | None = Field(None, description="Of state and weights: `float64` where float32 would not do.")
    rtol: float | None = Field(None, description="Relative tolerance of an adaptive solver.")
    atol: float | None = Field(None, description="Absolute tolerance of an adaptive solver.")
    steps: int | None = Field(None, description="Of a fixed solver, over one block.")


class InverseError(_Part):
    """Test rows carried to the base and back with training's solver: how far from themselves they end."""

    rows: int = Field(description="Rows that were carried.")
    max: Number = Field(description="Largest absolute difference of a value, in the space that the flow models.")
    rms: Number = Field(description="Root mean square of the differences, likewise.")


class TwoSampleTest(_Part):
    """How well boosted trees tell the flow's samples from held-out rows, on halves that they were not trained on."""

    rows: int = Field(description="Rows, and as many samples, that were classified.")
    accuracy: Number = Field(description="Share that was classified rightly; 0.5 is chance.")
    accuracy_stderr: Number = Field(description="Its standard error, binomial.")
    auc: Number = Field(description="Probability that a sample looks more like one than a row does; 0.5 is chance.")
    auc_stderr: Number = Field(description="Its standard error (DeLong's).")


class EvaluationResult(_Part):
    """What was measured on held-out rows after the training; null where the spec does not ask for it."""

    test_nll: Number | None = Field(
        None, description="Mean negative log-likelihood of the test rows after the spec's transforms, nats a row."
    )
    test_nll_stderr: Number | None = Field(None, description="Its standard error over the rows, nats.")
    test_nll_original_units: Number | None = Field(
        None, description="The same of the rows in the data's own units and columns, nats a row."
    )
    test_nll_original_units_stderr: Number | None = Field(
        None,
        description="Its standard error, nats: another one, where the transforms' Jacobian differs from row to row.",
    )
    test_bits_per_dim: Number | None = Field(
        None,
        description="Of dequantised data: `test_nll_original_units` over the number of columns, in bits; an upper "
        "bound of the discrete NLL. Else null.",
    )
    test_bits_per_dim_stderr: Number | None = Field(None, description="Its standard error, bits a dimension.")
    test_nll_training_tolerance: Number | None = Field(
        None, description="NLL of the same rows with the same divergence at training's tolerances, nats a row."
    )
    test_nll_gap: Number | None = Field(
        None, description="`test_nll_training_tolerance` less `test_nll`, nats: what the loose solves get wrong."
    )
    test_nll_gap_stderr: Number | None = Field(
        None, description="Its standard error, of the differences row by row, nats."
    )
    test_rows: int | None = Field(None, description="Test rows that were scored.")
    nfe_test: Number | None = Field(
        None, description="Uses of the field for one piece of the test rows, summed over blocks, mean over pieces."
    )
    test_solver: TestSolver | None = None
    inverse_error: InverseError | None = None
    two_sample: TwoSampleTest | None = None
    density_integral: Number | None = Field(
        None, description="Of a two-dimensional flow's density over the plane, where pictures are drawn; 1 is right."
    )
    density_integral_spread: Number | None = Field(
        None,
        description="How far the integral strays by every other point of the grid: where that is not small, the grid "
        "is too coarse for the density.",
    )
    baselines: Baselines | None = None
    evaluate_seconds: float | None = Field(None, description="Wall time of the evaluation, seconds.")


class JobResult(EvaluationResult):
    """What came of a job that succeeded.

    All likelihoods are of the averaged weights with ``ema``, and of the best weights with ``early_stop``. What a
    version before this one has stored is read with the fields that it has.
    """

    steps: int | None = Field(None, description="Steps that the training took, pre-training included.")
    stopped_early: bool | None = Field(None, description="Whether `early_stop` ended the training.")
    weights_of_step: int | None = Field(None, description="The step whose weights were kept.")
    train_seconds: float | None = Field(None, description="Wall time of the training over all attempts, seconds.")
    parameters: int | None = Field(None, description="Learnt numbers of the flow.")
    validation_nll: Number | None = Field(
        None, description="Mean NLL of the validation rows with the kept weights, at training's tolerances, nats a row."
    )
    host_peak_bytes: int | None = Field(
        None, description="Highest resident memory of a rank in any step, bytes; null where the platform gives none."
    )
    device_peak_bytes: int | None = Field(
        None,
        description="Highest memory of the accelerator's allocator of a rank in any step, bytes; null without one.",
    )

    def stored(self) -> dict[str, Any]:
        """Return the result as JSON values, without what was not measured."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude_none=True))
        return values
