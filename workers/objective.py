"""The loss of a step, as a module: what DDP wraps."""

from __future__ import annotations

from torch import Tensor, nn

from service.spec import JobSpec
from symadj_core.flows import Flow

__all__ = ["Objective"]


class Objective(nn.Module):
    """The mean loss over one rank's rows, and what it consists of.

    Args:
        spec: of the job.
        flow: to be trained.
    """

    def __init__(self, spec: JobSpec, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self._seed = spec.seed

    @staticmethod
    def metrics(spec: JobSpec, step: int) -> tuple[str, ...]:
        """Return the names of the figures that ``forward`` gives at ``step``."""
        return ("loss",)

    def forward(self, x: Tensor, *, step: int, sample_index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (0-dim) and its figures (0-dim, detached) by the names of ``metrics``.

        Args:
            x: [B, D], rows of this rank.
            step: of the whole training, counted from 1.
            sample_index: [B] int64, the rows' numbers in the data set.

        Raises:
            SolverError: a row could not be carried to the base.
        """
        loss = -self.flow(x, seed=self._seed, step=step, sample_index=sample_index).mean()
        return loss, {"loss": loss.detach()}
