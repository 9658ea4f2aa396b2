"""Exact gradients of neural ODEs with minimal memory, and continuous normalizing flows on top of them.

The names a user needs:

    solve(field, y0, t, *, solver, controller, gradient, quadrature, parameters, throw) -> Solution
    Solution, Stats, Status, SolverError, Quadrature

    odeint, odeint_adjoint, odeint_onecheckpoint, odeint_checkpoint, odeint_symplectic_adjoint,
    odeint_event, odeint_dense                      torchdiffeq's functions over the above

    tableaus.by_name("dopri5")                      the solvers, as Butcher tableaus
    controllers.by_name("i", rtol=1e-5, atol=1e-6)  "fixed", "i", "pi"
    gradients.by_name("symplectic", keep="stages")  "backprop", "onecheckpoint", "aca", "symplectic", "adjoint"

    flows.Flow, flows.Block                         a continuous normalizing flow, also conditional
    flows.MLPField, flows.ResidualField, flows.PotentialField       its vector fields
    flows.divergence.by_name("hutchinson", distribution="rademacher", probes=1)     or "exact", "hutchpp"
    flows.REGULARISERS, flows.flow_matching_loss    kinetic energy and others beside the likelihood; training without it

    memory.PeakMeter, memory.LiveTensorMeter        what it costs

It needs torch and numpy and nothing else.
"""

from symadj_core import flows, gradients, memory
from symadj_core.dense import odeint_dense
from symadj_core.errors import SolverError, Status
from symadj_core.gradients import GradientMethod
from symadj_core.odeint import (
    odeint,
    odeint_adjoint,
    odeint_checkpoint,
    odeint_event,
    odeint_onecheckpoint,
    odeint_symplectic_adjoint,
)
from symadj_core.solve import Solution, solve
from symadj_core.solvers import controller as controllers
from symadj_core.solvers import tableaus
from symadj_core.solvers.controller import FixedStep, IController, PIController, RankReducedNorm
from symadj_core.solvers.problem import Stats
from symadj_core.solvers.system import Quadrature
from symadj_core.solvers.tableaus import ButcherTableau

__all__ = [
    "ButcherTableau",
    "FixedStep",
    "GradientMethod",
    "IController",
    "PIController",
    "Quadrature",
    "RankReducedNorm",
    "Solution",
    "SolverError",
    "Stats",
    "Status",
    "controllers",
    "flows",
    "gradients",
    "memory",
    "odeint",
    "odeint_adjoint",
    "odeint_checkpoint",
    "odeint_dense",
    "odeint_event",
    "odeint_onecheckpoint",
    "odeint_symplectic_adjoint",
    "solve",
    "tableaus",
]
