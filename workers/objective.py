"""The loss of a step, as a module: what DDP wraps."""

from __future__ import annotations

from torch import Tensor, nn

from service.spec import JobSpec
from symadj_core.flows import Flow
from workers.likelihood import DeviceRows
from workers.schedules import regulariser_weights

__all__ = ["Objective"]


class Objective(nn.Module):
    """The mean loss over one rank's rows, and what it consists of.

    ``loss`` is what is minimised: the NLL, and with regularisers the NLL and their weighted means; these have metrics
    of their own then (``nll`` and each regulariser by its name, not weighted).

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
        if not spec.regularisers:
            return ("loss",)
        return ("loss", "nll", *(regulariser.kind for regulariser in spec.regularisers))

    def forward(self, rows: DeviceRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (0-dim) and its figures (0-dim, detached) by the names of ``metrics``.

        Args:
            rows: of this rank.
            step: of the whole training, counted from 1.

        Raises:
            SolverError: a row could not be carried to the base.
        """
        spec, regularisers = self._spec, [regulariser.kind for regulariser in self._spec.regularisers]
        log_prob, integrals = self.flow.regularised_log_prob(
            rows.x,
            seed=spec.seed,
            step=step,
            sample_index=rows.index,
            context=rows.context,
            regularisers=regularisers,
        )
        nll = -log_prob.mean()
        if not regularisers:
            return nll, {"loss": nll.detach()}
        parts = {"nll": nll} | {name: integral.mean() for name, integral in integrals.items()}
        loss = nll
        for name, weight in regulariser_weights(spec, step).items():
            loss = loss + weight * parts[name]
        return loss, {name: part.detach() for name, part in ({"loss": loss} | parts).items()}
