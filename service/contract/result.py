"""The result of a job that succeeded, as its run reports it and as clients get it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from symadj.service.contract.storable import Message

__all__ = [
    "Baselines",
    "Calibration",
    "ColumnRanks",
    "Coverage",
    "EvaluationResult",
    "GradientError",
    "InverseError",
    "JobResult",
    "MixtureBaseline",
    "Number",
    "ReportFailure",
    "ScoresResult",
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

    components: int = Field(description="Gaussians in the mixture.")
    test_nll: Number | None = Field(
        None,
        description="NLL of the mixture, nats a row; null where it can't be fitted, or a component would get too "
        "few rows.",
    )


class Baselines(_Part):
    """Classical densities on the same test rows, in the same space as ``test_nll``.

    Beside a conditional flow, only ``linear_gaussian`` knows the contexts of the rows.
    """

    conditional: bool = Field(
        False,
        description="Whether the flow is conditional: `gaussian` and `gaussian_mixture` then know less than it does.",
    )
    linear_gaussian: Number | None = Field(
        None,
        description="NLL of a Gaussian whose mean is linear in the context, nats a row; null where the flow is not "
        "conditional, or the columns depend on each other and the context.",
    )
    gaussian: Number | None = Field(
        None, description="NLL of a Gaussian, nats a row; null where the columns depend on each other."
    )
    gaussian_mixture: MixtureBaseline | None = Field(
        None, description="A Gaussian mixture; null where none was fitted."
    )


class TestSolver(_Part):
    """How the test likelihood was solved; null is what such a solver does not have."""

    __test__ = False  # not a test case, whatever its name

    divergence: str = Field("exact", description="The divergence: `exact`, or the name of an estimate.")
    probes: int | None = Field(None, description="Probe vectors a row of an estimate; null for the exact divergence.")
    method: str | None = Field(None, description="The solver, by its name in the spec.")
    dtype: str | None = Field(None, description="Of state and weights; `float64` where float32 is not precise enough.")
    rtol: float | None = Field(None, description="Relative tolerance of an adaptive solver.")
    atol: float | None = Field(None, description="Absolute tolerance of an adaptive solver.")
    steps: int | None = Field(None, description="Steps of a fixed solver over one block; null for an adaptive one.")


class InverseError(_Part):
    """Test rows carried to the base and back with training's solver: how far they end from where they began."""

    rows: int = Field(description="Rows that were carried.")
    max: Number = Field(description="Largest absolute difference of a value, in the space that the flow models.")
    rms: Number = Field(description="Root mean square of the differences of all values, in the same space.")


class GradientError(_Part):
    """The trained weights' gradient by the job's own method and precision, beside backpropagation in float64."""

    rows: int = Field(description="Validation rows whose mean NLL was differentiated.")
    relative: Number = Field(
        description="2-norm of the difference over that of the exact gradient; rounding alone is about 1e-7 in float32 "
        "and 1e-16 in float64, times what the solver makes of it."
    )


class TwoSampleTest(_Part):
    """How well boosted trees tell the flow's samples from held-out rows, on halves that they were not trained on."""

    rows: int = Field(description="Rows, and as many samples, that were classified.")
    accuracy: Number = Field(description="Share that was classified correctly; 0.5 is chance.")
    accuracy_stderr: Number = Field(description="Its standard error, binomial.")
    auc: Number = Field(description="Probability that a sample looks more like one than a row does; 0.5 is chance.")
    auc_stderr: Number = Field(description="Its standard error (DeLong's).")


class ColumnRanks(_Part):
    """Simulation-based calibration of a column: the place of each row's value among draws for its context.

    A place is the share of the draws that lie below the value; it is uniform between 0 and 1 if the flow is right.
    """

    column: Message = Field(description="Its name.")
    counts: list[int] = Field(
        description="Rows by their places, in bins of one width from 0 to 1. Many at both ends: the draws spread too "
        "little; many in the middle: too much; more on one side: the draws lie on the other."
    )
    mean: Number = Field(description="Mean of the places; 0.5 is right, more where the draws lie too low.")
    mean_stderr: Number = Field(description="Its standard error.")
    central_half: Number = Field(
        description="Share of the rows in the middle half of their draws; 0.5 is right, less where the draws spread "
        "too little."
    )
    central_half_stderr: Number = Field(description="Its standard error, binomial.")
    ks_p: Number = Field(
        description="Kolmogorov-Smirnov p value of the places against uniform; one of as many columns as there are."
    )


class Coverage(_Part):
    """How many rows the regions that hold a given share of the flow's probability hold."""

    coverage: list[Number] = Field(description="Share of the rows in their regions, for each of `levels`.")
    area: Number = Field(
        description="Integral of coverage less level: of highest-density regions from 0 to 1, of TARP from 0.5 to 1. "
        "0 is right; less: the draws spread too little; more: too much. Where they lie in the wrong place, that of "
        "highest-density regions is less than 0, and TARP's may be either."
    )
    area_stderr: Number = Field(description="Its standard error over the rows.")
    ks_p: Number = Field(description="Kolmogorov-Smirnov p value of the coverage at all levels against the levels.")


class Calibration(_Part):
    """Whether draws of a conditional flow are distributed as held-out rows, each given the context of the row."""

    rows: int = Field(description="Held-out rows.")
    draws: int = Field(description="Draws of the flow for the context of each row.")
    divergence: str = Field(description="Of the densities that order highest-density regions.")
    columns: list[ColumnRanks] = Field(
        description="Each column; where there are more than a hundred, the hundred with the least `ks_p`."
    )
    columns_tested: int = Field(description="How many columns there are.")
    counts_expected: Number = Field(description="Rows in a bin of `counts` if the flow is right.")
    counts_low: int = Field(description="Of 100 bins of a right flow, 99 have at least so many rows,")
    counts_high: int = Field(description="and at most so many.")
    levels: list[float] = Field(description="Shares of the flow's probability that regions hold.")
    band: Number = Field(
        description="Of 100 right flows, the coverage of 95 is at all levels at most so far from the level."
    )
    highest_density: Coverage = Field(description="Of the regions of highest density.")
    tarp: Coverage = Field(description="Of balls around random points (TARP).")


class ReportFailure(_Part):
    """A part of the report that could not be made, of a job that succeeded nevertheless."""

    part: str = Field(
        description="`test`, `inverse_error`, `gradient_error`, `calibration`, `samples`, `two_sample`, `baselines`, "
        "or a file's name."
    )
    reason: str | None = Field(description="A reason code, as of a failed job; null where none fits.")
    message: Message = Field(description="What went wrong; the event `report_part_failed` has more.")


class EvaluationResult(_Part):
    """Measurements on held-out rows after the training; null where the spec does not ask for them, or they failed."""

    test_nll: Number | None = Field(
        None, description="Mean negative log-likelihood of the test rows after the spec's transforms, nats a row."
    )
    test_nll_stderr: Number | None = Field(None, description="Its standard error over the rows, nats.")
    test_nll_original_units: Number | None = Field(
        None, description="The same of the rows in the data's own units and columns, nats a row."
    )
    test_nll_original_units_stderr: Number | None = Field(
        None,
        description="Its standard error, nats; not that of `test_nll` where the transforms' Jacobian varies from row "
        "to row.",
    )
    test_bits_per_dim: Number | None = Field(
        None,
        description="`test_nll_original_units` over the number of columns, in bits, of dequantised data: an upper "
        "bound of the discrete NLL. Null for other data.",
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
    test_solver: TestSolver | None = Field(None, description="The divergence and the solver of `test_nll`.")
    inverse_error: InverseError | None = Field(None, description="How far the flow's two directions disagree.")
    gradient_error: GradientError | None = Field(None, description="How far the gradient is from the exact one.")
    two_sample: TwoSampleTest | None = Field(None, description="Whether a classifier tells samples from test rows.")
    calibration: Calibration | None = Field(None, description="Whether a conditional flow's draws spread as rows do.")
    density_integral: Number | None = Field(
        None,
        description="Integral of a two-dimensional flow's density over the plane, where pictures are drawn; 1 is "
        "right.",
    )
    density_integral_spread: Number | None = Field(
        None,
        description="How far the integral over every other point of the grid differs: where that is not small, the "
        "grid is too coarse for the density.",
    )
    baselines: Baselines | None = Field(None, description="NLLs of classical densities, to compare `test_nll` with.")
    report_failures: list[ReportFailure] | None = Field(
        None, description="Parts of the evaluation that could not be made; null where all were."
    )
    evaluate_seconds: float | None = Field(None, description="Wall time of the evaluation, seconds.")


class ScoresResult(_Part):
    """What a job that scores rows found; the scores themselves are its artifact `scores.parquet`."""

    rows: int = Field(description="Rows that were scored.")
    log_prob: Number = Field(description="Mean log-density, nats a row, in the units that the spec asks for.")
    log_prob_stderr: Number | None = Field(
        None, description="Its standard error over the rows, nats; null for a single row."
    )
    seconds: float = Field(description="Wall time in which the last attempt scored its rows and wrote them, seconds.")
    rows_per_second: float = Field(
        description="Rows that the last attempt scored over `seconds`: those that an earlier one had finished do not "
        "count."
    )


class JobResult(EvaluationResult):
    """The result of a job that succeeded; of one that scores rows `scores` and the peaks alone.

    null is what the spec does not ask for, and what could not be made (``report_failures``). All likelihoods are of the
    averaged weights with ``ema``, and of the best weights with ``early_stop``. Results stored by earlier versions are
    read with the fields that they have.
    """

    steps: int | None = Field(None, description="Steps that the training took, pre-training included.")
    batch_size: int | None = Field(
        None,
        description="Rows of one step, over all workers: those of the spec, or where it names none as many as the "
        "training rows allow.",
    )
    pretraining_steps: int | None = Field(
        None,
        description="How many of these were of pre-training: fewer than the spec's where `max_epochs` allows no more.",
    )
    stopped_early: bool | None = Field(None, description="Whether `early_stop` ended the training.")
    weights_of_step: int | None = Field(None, description="The step whose weights were kept.")
    train_seconds: float | None = Field(None, description="Wall time of the training over all attempts, seconds.")
    parameters: int | None = Field(None, description="Learnt numbers of the flow.")
    validation_nll: Number | None = Field(
        None, description="Mean NLL of the validation rows with the kept weights, at training's tolerances, nats a row."
    )
    scores: ScoresResult | None = Field(None, description="Of a job that scores rows; null for a training.")
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
