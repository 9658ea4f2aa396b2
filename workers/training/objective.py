"""The loss of a step, as a module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

from torch import Tensor, nn

from symadj.service.contract.spec import JobSpec
from symadj.workers.model.likelihood import DeviceRows
from symadj.workers.training.pairing import sample_pairs
from symadj.workers.training.schedules import pretraining_steps, regulariser_weights
from symadj_core.flows import Flow
from symadj_core.flows.matching import flow_matching_loss

__all__ = ["Microbatch", "Objective", "microbatches"]

_MATCHING = "flow_matching_loss"


@dataclass(frozen=True)
class Microbatch:
    """Rows of one rank that are computed at once.

    Attributes:
        rows: of them.
        share: of the rank's rows in the batch.
        pairs: what flow matching pairs them with, base samples [n, dim] and times [n]; None for the likelihood.
    """

    rows: DeviceRows
    share: float
    pairs: tuple[Tensor, Tensor] | None


def microbatches(spec: JobSpec, rows: DeviceRows, step: int, rank: int, size: int) -> Iterator[Microbatch]:
    """Yield the rows of a rank in pieces of at most ``size``, whose losses times their shares add up to the whole.

    Flow matching pairs all of the rows at once, however they are split.

    Args:
        spec: of the job.
        rows: of the rank, in the batch.
        step: of the whole training, counted from 1.
        rank: whose rows these are.
        size: rows.
    """
    pairs: Iterator[tuple[Tensor, Tensor] | None] = repeat(None)
    if step <= pretraining_steps(spec):
        assert spec.pretraining is not None
        z, time = sample_pairs(
            rows.x,
            spec.seed,
            step,
            rank,
            optimal_transport=spec.pretraining.optimal_transport,
            context=rows.context,
            context_ratio=spec.pretraining.context_ratio,
        )
        parts = (slice(first, first + size) for first in range(0, len(z), size))
        pairs = ((z[part], time[part]) for part in parts)
    for piece, of_piece in zip(rows.split(size), pairs, strict=False):
        yield Microbatch(piece, len(piece.x) / len(rows.x), of_piece)


class Objective(nn.Module):
    """The mean loss over one rank's rows, and its parts.

    In pre-training that is ``flow_matching_loss``. From then on ``loss`` is what is minimised: the NLL, or with
    regularisers the NLL and their weighted means, which then have metrics of their own (``nll``, and each regulariser
    by its name and without its weight).

    Args:
        spec: of the job.
        flow: to be trained.
    """

    def __init__(self, spec: JobSpec, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self._spec = spec

    @staticmethod
    def metrics(spec: JobSpec, step: int) -> tuple[str, ...]:
        """Return the names of the figures that ``forward`` gives at ``step``."""
        if step <= pretraining_steps(spec):
            return (_MATCHING,)
        regularisers = [regulariser.kind for regulariser in spec.regularisers]
        return ("loss", "nll", *regularisers) if regularisers else ("loss",)

    def forward(self, microbatch: Microbatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (0-dim) and its figures (0-dim, detached) by the names of ``metrics``.

        Args:
            microbatch: of this rank.
            step: of the whole training, counted from 1.

        Raises:
            SolverError: a row could not be carried to the base.
        """
        rows, pairs = microbatch.rows, microbatch.pairs
        loss, figures = self._likelihood(rows, step) if pairs is None else self._flow_matching(rows, *pairs)
        return loss, {name: figure.detach() for name, figure in figures.items()}

    def _flow_matching(self, rows: DeviceRows, z: Tensor, time: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = flow_matching_loss(self.flow, rows.x, z, time, rows.context).mean()
        return loss, {_MATCHING: loss}

    def _likelihood(self, rows: DeviceRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        log_prob, integrals = self.flow.regularised_log_prob(
            rows.x,
            seed=self._spec.seed,
            step=step,
            sample_index=rows.index,
            context=rows.context,
            regularisers=[regulariser.kind for regulariser in self._spec.regularisers],
        )
        nll = -log_prob.mean()
        if not integrals:
            return nll, {"loss": nll}
        figures = {"nll": nll} | {name: integral.mean() for name, integral in integrals.items()}
        loss = nll
        for name, weight in regulariser_weights(self._spec, step).items():
            loss = loss + weight * figures[name]
        return loss, {"loss": loss} | figures
