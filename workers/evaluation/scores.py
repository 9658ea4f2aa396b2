"""Likelihood of the test rows, and how well the flow inverts itself on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from symadj.service.contract.result import EvaluationResult, InverseError
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.workers.data import Part, PreparedData
from symadj.workers.distributed.ranks import Ranks
from symadj.workers.model.build import evaluation_flow
from symadj.workers.model.likelihood import HeldOut, on_device
from symadj.workers.rank_run import RankRun
from symadj_core.flows import Flow, piece_rows

__all__ = ["inverse_error", "score_test_rows", "tested_rows"]


def tested_rows(evaluation: Evaluation, data: PreparedData) -> Part:
    """Return the test rows that the spec asks to score."""
    return data.test if evaluation.test_rows is None else data.test.head(evaluation.test_rows)


def score_test_rows(run: RankRun, evaluation: Evaluation, flow: Flow, data: PreparedData) -> EvaluationResult:
    """Compute the NLL of the test rows at tight tolerances and at training's, both with the evaluation's divergence.

    The ranks share the rows, a piece at a time; a request to stop takes effect between two pieces.

    Returns:
        the result's fields about the test rows.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """
    spec, ranks = run.spec, run.ranks
    tested, solver = ranks.together(lambda: evaluation_flow(flow, spec, evaluation), phase="evaluation")
    trained = flow.with_settings(divergence=tested.stack()[0].settings.divergence)
    piece = piece_rows(tested, spec.batch_size // ranks.size)
    share = tested_rows(evaluation, data).share(ranks.rank, ranks.size)

    def score(scored: Flow) -> tuple[Tensor, list[int]]:
        return HeldOut(on_device(share, scored, ranks.device), piece, spec.seed).nll(
            scored, run.outbox.raise_if_stopped
        )

    nll, counts = ranks.together(lambda: score(tested), phase="evaluation")
    gap = ranks.together(lambda: score(trained)[0], phase="evaluation") - nll
    mean, stderr, rows = _mean(nll, ranks)
    gap_mean, gap_stderr, _ = _mean(gap, ranks)
    original, original_stderr, _ = _mean(nll - torch.from_numpy(share.log_abs_det).to(nll), ranks)
    nfe, pieces = ranks.sum([sum(counts), len(counts)])
    return EvaluationResult(
        test_nll=mean,
        test_nll_stderr=stderr,
        test_nll_original_units=original,
        test_nll_original_units_stderr=original_stderr,
        test_bits_per_dim=data.bits_per_dim(original),
        test_bits_per_dim_stderr=data.bits_per_dim(original_stderr),  # both are multiples of nats
        test_nll_training_tolerance=mean + gap_mean,
        test_nll_gap=gap_mean,
        test_nll_gap_stderr=gap_stderr,
        test_rows=rows,
        nfe_test=nfe / pieces,
        test_solver=solver,
    )


def _mean(values: Tensor, ranks: Ranks) -> tuple[float, float, int]:
    """Return mean, standard error and number of all ranks' ``values`` [n]."""
    count, total = ranks.sum([len(values), float(values.sum())])
    mean = total / count
    (squares,) = ranks.sum([float((values - mean).square().sum())])
    return mean, math.sqrt(squares / (count - 1) / count), int(count)


def inverse_error(run: RankRun, rows: int, flow: Flow, data: PreparedData) -> InverseError:
    """Carry test rows to the base and back with training's solver; return how far they end from where they began.

    Args:
        run: on this rank; a request to stop takes effect between two pieces.
        rows: how many test rows, from the first on.
        flow: with training's solver.
        data: prepared.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """
    spec, ranks = run.spec, run.ranks
    part = data.test.head(rows)
    piece = max(1, spec.batch_size // ranks.size)

    @torch.no_grad()
    def measure() -> tuple[float, float]:
        largest = squares = 0.0
        for own in on_device(part.share(ranks.rank, ranks.size), flow, ranks.device).split(piece):
            run.outbox.raise_if_stopped()
            error = (flow.from_base(flow.to_base(own.x, own.context), own.context) - own.x).double()
            largest, squares = max(largest, float(error.abs().max())), squares + float(error.square().sum())
        return largest, squares

    measured = ranks.gather(ranks.together(measure, phase="evaluation"))
    mean = sum(squares for _, squares in measured) / (len(part) * data.dim)
    return InverseError(rows=len(part), max=max(largest for largest, _ in measured), rms=math.sqrt(mean))
