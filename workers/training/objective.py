"""The loss of a step, as a module for DDP to wrap."""

from __future__ import annotations

from torch import Tensor, nn

from symadj.service.contract.spec import JobSpec
from symadj.workers.model.likelihood import DeviceRows
from symadj.workers.training.pairing import sample_pairs
from symadj.workers.training.schedules import pretraining_steps, regulariser_weights
from symadj_core.flows import Flow
from symadj_core.flows.matching import flow_matching_loss

__all__ = ["Objective"]

_MATCHING = "flow_matching_loss"


class Objective(nn.Module):
    """The mean loss over one rank's rows, and its parts.

    In pre-training that is ``flow_matching_loss``. From then on ``loss`` is what is minimised: the NLL, or with
    regularisers the NLL and their weighted means, which then have metrics of their own (``nll``, and each regulariser
    by its name and without its weight).

    Args:
        spec: of the job.
        flow: to be trained.
        rank: whose rows these are.
    """

    def __init__(self, spec: JobSpec, flow: Flow, rank: int) -> None:
        super().__init__()
        self.flow = flow
        self._spec, self._rank = spec, rank

    @staticmethod
    def metrics(spec: JobSpec, step: int) -> tuple[str, ...]:
        """Return the names of the figures that ``forward`` gives at ``step``."""
        if step <= pretraining_steps(spec):
            return (_MATCHING,)
        regularisers = [regulariser.kind for regulariser in spec.regularisers]
        return ("loss", "nll", *regularisers) if regularisers else ("loss",)

    def forward(self, rows: DeviceRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (0-dim) and its figures (0-dim, detached) by the names of ``metrics``.

        Args:
            rows: of this rank.
            step: of the whole training, counted from 1.

        Raises:
            SolverError: a row could not be carried to the base.
        """
        matching = step <= pretraining_steps(self._spec)
        loss, figures = self._flow_matching(rows, step) if matching else self._likelihood(rows, step)
        return loss, {name: figure.detach() for name, figure in figures.items()}

    def _flow_matching(self, rows: DeviceRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        spec = self._spec
        assert spec.pretraining is not None
        z, time = sample_pairs(
            rows.x,
            spec.seed,
            step,
            self._rank,
            optimal_transport=spec.pretraining.optimal_transport,
            context=rows.context,
            context_ratio=spec.pretraining.context_ratio,
        )
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
