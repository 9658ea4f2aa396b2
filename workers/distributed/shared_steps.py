"""Adaptive steps that all ranks of a run take together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from symadj.service.contract.spec.solver import AdaptiveSolver, Solver
from symadj.workers.distributed.ranks import Ranks
from symadj_core import RankReducedNorm
from symadj_core.flows import Flow
from symadj_core.gradients import Adjoint
from symadj_core.solvers.controller import AdaptiveController

__all__ = ["PeerFailedError", "SharedSteps"]


class PeerFailedError(Exception):
    """Another rank could not go on with the solve that all were making; it knows why."""


@dataclass(frozen=True)
class _Norm(RankReducedNorm):
    """The error norm over the rows of all ranks; each tells the others that it is solving.

    Attributes:
        ranks: of the run.
    """

    ranks: Ranks = field(kw_only=True)

    def add_up(self, totals: Tensor) -> None:
        solving, failed = totals.new_ones(1, dtype=torch.float64), totals.new_zeros(1, dtype=torch.float64)
        told = torch.cat([totals.double(), solving, failed])
        self.ranks.add_up(told)
        if told[3]:
            raise PeerFailedError
        totals.copy_(told[:2])


class SharedSteps:
    """Lets the ranks of a run make the solves of a training step together, and none wait for one that has given up.

    In every attempted step of a solve the ranks add up their errors, and tell each other that they are solving. A rank
    that has made its solves, or has failed, goes on to answer those that have not (``finish``), with no rows of its
    own. So a rank may fail anywhere, and the ranks need not make the same number of solves.

    Args:
        ranks: of the run; more than one.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    @classmethod
    def wanted_by(cls, solver: Solver, ranks: Ranks) -> SharedSteps | None:
        """Return what lets ``ranks`` share their steps; None where the spec does not want it, or there are none."""
        return cls(ranks) if ranks.size > 1 and isinstance(solver, AdaptiveSolver) and solver.shared_steps else None

    def flow(self, flow: Flow) -> Flow:
        """Return a flow with the same weights whose steps all ranks share.

        The backward solve of the continuous adjoint has steps of its own on each rank: the gradients with respect to
        the weights, of whose error the norm is taken there, are those of the rank's rows until the end.

        Args:
            flow: with adaptive steps, the same settings for all blocks. ``SolverError`` of its solves is raised on all
                ranks, and ``PeerFailedError`` where another rank has failed by itself.
        """
        settings = flow.stack()[0].settings
        own, gradient = settings.controller, settings.gradient
        assert isinstance(own, AdaptiveController)
        if isinstance(gradient, Adjoint):
            gradient = replace(gradient, controller=own)
        return flow.with_settings(controller=replace(own, norm=_Norm(ranks=self._ranks)), gradient=gradient)

    def finish(self, *, failed: bool) -> None:
        """Answer the ranks that are still solving until none is; a collective, once for each training step.

        Args:
            failed: whether this rank could not make its solves. The others then give up theirs.

        Raises:
            PeerLostError: a rank died.
        """
        solving = 1.0
        while solving:
            _, _, solving, _ = self._ranks.sum([0.0, 0.0, 0.0, failed])
