"""What is measured after training: test likelihood, baselines, samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.spec import Evaluation, JobSpec
from symadj_core.flows import Flow
from workers.data import PreparedData
from workers.flow import evaluation_flow
from workers.likelihood import HeldOut, piece_rows, rows_on_device
from workers.ranks import Ranks
from workers.telemetry import Outbox

__all__ = ["TestScore", "draw_samples", "score_test_rows"]


@dataclass(frozen=True)
class TestScore:
    """Likelihood of the test rows.

    Attributes:
        nll: mean negative log-likelihood, nats a row, in the space that the flow models.
        stderr: its standard error, over rows.
        nll_original_units: the same for the raw rows, in nats.
        rows: how many.
        nfe: uses of the field for one piece of the rows, summed over blocks, mean over pieces.
        how: the solver's settings.
    """

    nll: float
    stderr: float
    nll_original_units: float
    rows: int
    nfe: float
    how: dict[str, Any]

    __test__ = False  # not a test case, whatever its name


def score_test_rows(
    spec: JobSpec, evaluation: Evaluation, flow: Flow, data: PreparedData, ranks: Ranks, outbox: Outbox
) -> TestScore:
    """Compute the NLL of the test rows with the exact trace and tight tolerances, shared among the ranks.

    A cancel ends it between two pieces of the rows.

    Raises:
        AttemptFailedError: on all ranks, when a rank's solver could not reach the end.
    """
    tested, how = evaluation_flow(flow, spec, evaluation.tolerance_factor)
    piece = piece_rows(spec.data.batch_size // ranks.size, data.dim)

    def score() -> tuple[Tensor, list[int]]:
        rows, index = rows_on_device(data.test.share(ranks.rank, ranks.size), tested, ranks.device)
        return HeldOut(rows, index, piece, spec.seed).nll(tested, outbox.heed)

    nll, counts = ranks.together(score, phase="evaluation")
    n, total, nfe, pieces = ranks.sum([len(nll), float(nll.sum()), sum(counts), len(counts)])
    mean = total / n
    (squares,) = ranks.sum([float((nll - mean).square().sum())])
    return TestScore(
        nll=mean,
        stderr=math.sqrt(squares / (n - 1) / n),
        nll_original_units=mean - float(data.test.log_abs_det.mean()),
        rows=int(n),
        nfe=nfe / pieces,
        how=how,
    )


@torch.no_grad()
def draw_samples(flow: Flow, count: int, seed: int, piece: int) -> NDArray[np.float64]:
    """Draw ``count`` samples [count, dim] of the flow, ``piece`` at a time, with training's solver."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = [flow.sample((min(piece, count - done),)) for done in range(0, count, piece)]
    return torch.cat(drawn).double().cpu().numpy()
