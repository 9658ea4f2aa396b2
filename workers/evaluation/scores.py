"""Likelihood of the test rows, and how well the flow inverts itself on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.workers.data import Part, PreparedData
from symadj.workers.delivery.sender import Outbox
from symadj.workers.distributed.ranks import Ranks
from symadj.workers.model.build import evaluation_flow
from symadj.workers.model.likelihood import HeldOut, on_device, piece_rows
from symadj_core.flows import Flow

__all__ = ["TestScore", "inverse_error", "score_test_rows", "tested_rows"]


@dataclass(frozen=True)
class TestScore:
    """Likelihood of the test rows.

    Attributes:
        nll: mean negative log-likelihood, nats a row, in the space that the flow models.
        stderr: its standard error, over rows.
        nll_original_units: the same for the raw rows, in nats.
        stderr_original_units: its standard error; another one, since the transforms' Jacobian differs from row to row.
        bits_per_dim: of dequantised data, else None; an upper bound of the discrete NLL.
        stderr_bits_per_dim: its standard error, or None.
        training_nll: the NLL of the same rows with training's tolerances and the same divergence.
        gap: ``training_nll - nll``: what the loose solves of the training get wrong.
        gap_stderr: its standard error, of the differences row by row.
        rows: how many.
        nfe: uses of the field for one piece of the rows, summed over blocks, mean over pieces.
        how: the solver's settings.
    """

    nll: float
    stderr: float
    nll_original_units: float
    stderr_original_units: float
    bits_per_dim: float | None
    stderr_bits_per_dim: float | None
    training_nll: float
    gap: float
    gap_stderr: float
    rows: int
    nfe: float
    how: dict[str, Any]

    __test__ = False  # not a test case, whatever its name

    def result(self) -> dict[str, Any]:
        """Return the fields of the job's result."""
        return {
            "test_nll": self.nll,
            "test_nll_stderr": self.stderr,
            "test_nll_original_units": self.nll_original_units,
            "test_nll_original_units_stderr": self.stderr_original_units,
            "test_bits_per_dim": self.bits_per_dim,
            "test_bits_per_dim_stderr": self.stderr_bits_per_dim,
            "test_nll_training_tolerance": self.training_nll,
            "test_nll_gap": self.gap,
            "test_nll_gap_stderr": self.gap_stderr,
            "test_rows": self.rows,
            "nfe_test": self.nfe,
            "test_solver": self.how,
        }


def tested_rows(evaluation: Evaluation, data: PreparedData) -> Part:
    """Return the test rows whose likelihood is wanted."""
    return data.test if evaluation.test_rows is None else data.test.head(evaluation.test_rows)


def score_test_rows(
    spec: JobSpec, evaluation: Evaluation, flow: Flow, data: PreparedData, ranks: Ranks, outbox: Outbox
) -> TestScore:
    """Compute the NLL of the test rows at tight tolerances and at training's, both with the evaluation's divergence.

    The ranks share the rows. A cancel ends it between two pieces of them.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """
    tested, how = evaluation_flow(flow, spec, evaluation)
    trained = flow.with_settings(divergence=tested.stack()[0].settings.divergence)
    piece = piece_rows(tested, spec.data.batch_size // ranks.size)
    share = tested_rows(evaluation, data).share(ranks.rank, ranks.size)

    def score(scored: Flow) -> tuple[Tensor, list[int]]:
        return HeldOut(on_device(share, scored, ranks.device), piece, spec.seed).nll(scored, outbox.raise_if_stopped)

    nll, counts = ranks.together(lambda: score(tested), phase="evaluation")
    gap = ranks.together(lambda: score(trained)[0], phase="evaluation") - nll
    mean, stderr, rows = _mean(nll, ranks)
    gap_mean, gap_stderr, _ = _mean(gap, ranks)
    original, original_stderr, _ = _mean(nll - torch.from_numpy(share.log_abs_det).to(nll), ranks)
    nfe, pieces = ranks.sum([sum(counts), len(counts)])
    return TestScore(
        nll=mean,
        stderr=stderr,
        nll_original_units=original,
        stderr_original_units=original_stderr,
        bits_per_dim=data.bits_per_dim(original),
        stderr_bits_per_dim=data.bits_per_dim(original_stderr),  # both are multiples of nats
        training_nll=mean + gap_mean,
        gap=gap_mean,
        gap_stderr=gap_stderr,
        rows=rows,
        nfe=nfe / pieces,
        how=how,
    )


def _mean(values: Tensor, ranks: Ranks) -> tuple[float, float, int]:
    """Return mean, standard error and number of all ranks' ``values`` [n]."""
    count, total = ranks.sum([len(values), float(values.sum())])
    mean = total / count
    (squares,) = ranks.sum([float((values - mean).square().sum())])
    return mean, math.sqrt(squares / (count - 1) / count), int(count)


def inverse_error(
    spec: JobSpec, rows: int, flow: Flow, data: PreparedData, ranks: Ranks, outbox: Outbox
) -> dict[str, Any]:
    """Carry test rows to the base and back with training's solver, and return how far from themselves they end.

    Args:
        spec: of the job.
        rows: of the test rows, the first so many.
        flow: with training's solver.
        data: prepared.
        ranks: share the rows.
        outbox: whose cancel ends it between two pieces.

    Returns:
        ``{"rows": n, "max": largest, "rms": root mean square}`` of the differences of all values, in the space that
        the flow models.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """
    part = data.test.head(rows)
    piece = max(1, spec.data.batch_size // ranks.size)

    @torch.no_grad()
    def measure() -> tuple[float, float]:
        largest = squares = 0.0
        for own in on_device(part.share(ranks.rank, ranks.size), flow, ranks.device).split(piece):
            outbox.raise_if_stopped()
            error = (flow.from_base(flow.to_base(own.x, own.context), own.context) - own.x).double()
            largest, squares = max(largest, float(error.abs().max())), squares + float(error.square().sum())
        return largest, squares

    measured = ranks.gather(ranks.together(measure, phase="evaluation"))
    mean = sum(squares for _, squares in measured) / (len(part) * data.dim)
    return {"rows": len(part), "max": max(largest for largest, _ in measured), "rms": math.sqrt(mean)}
