"""The task of one solve, and its counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from symadj_core.solvers.controller import Controller
from symadj_core.solvers.system import System
from symadj_core.solvers.tableaus import ButcherTableau


@dataclass
class Stats:
    """Counts of one solve. `nfe_backward` grows when its backward runs.

    Attributes:
        nfe_forward, nfe_backward: uses of the field, the trial use of a plain function included.
        accepted, rejected: attempted steps of the forward solve.
        dt_min, dt_max: sizes of the accepted steps (inf and 0 before the first one).
        checkpoint_bytes: size of the states kept for the backward solve, without y0 and the graph.
    """

    nfe_forward: int = 0
    nfe_backward: int = 0
    accepted: int = 0
    rejected: int = 0
    dt_min: float = math.inf
    dt_max: float = 0.0
    checkpoint_bytes: int = 0

    def __add__(self, other: Stats) -> Stats:
        return Stats(
            self.nfe_forward + other.nfe_forward,
            self.nfe_backward + other.nfe_backward,
            self.accepted + other.accepted,
            self.rejected + other.rejected,
            min(self.dt_min, other.dt_min),
            max(self.dt_max, other.dt_max),
            self.checkpoint_bytes + other.checkpoint_bytes,
        )


Callback = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Callbacks:
    """Functions of (t0, y0, dt), t0 and dt 0-dim tensors, that the time loop calls with every attempted step.

    Attributes:
        step: before the step is attempted.
        accept, reject: after it, in an adaptive solve.
    """

    step: Callback | None = None
    accept: Callback | None = None
    reject: Callback | None = None


@dataclass(frozen=True)
class Problem:
    """One initial value problem with everything that decides its solution.

    Attributes:
        system: f and, where there are quadratures, g.
        y0: state at times[0], any shape.
        q0: quadratures at times[0], or None.
        t: the T requested times as given, 1-D.
        times: the same as floats, strictly monotonic.
        tableau, controller: method and step sizes.
        parameters: tensors that the field uses and whose gradients are wanted.
        modules: the modules that the field is or uses.
        closed: the parameters are all that the field uses: no other tensor should get a gradient.
        stats: filled as the solve goes.
        callbacks: called as the solve goes.
    """

    system: System
    y0: Tensor
    q0: Tensor | None
    t: Tensor
    times: list[float]
    tableau: ButcherTableau
    controller: Controller
    parameters: tuple[Tensor, ...]
    modules: tuple[nn.Module, ...]
    closed: bool
    stats: Stats
    callbacks: Callbacks = Callbacks()
