"""The names that `symadj_core` offers."""

import symadj_core.flows as flows
import symadj_core.gradients as gradients
import symadj_core.memory as memory
import symadj_core.solvers.controller as controllers
import symadj_core.solvers.tableaus as tableaus
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
from symadj_core.solvers.controller import FixedStep, IController, PIController, RankReducedNorm
from symadj_core.solvers.problem import Stats
from symadj_core.solvers.system import Quadrature
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.trained import LoadError, TrainedFlow, load

__all__ = [
    "ButcherTableau",
    "FixedStep",
    "GradientMethod",
    "IController",
    "LoadError",
    "PIController",
    "Quadrature",
    "RankReducedNorm",
    "Solution",
    "SolverError",
    "Stats",
    "Status",
    "TrainedFlow",
    "controllers",
    "flows",
    "gradients",
    "load",
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
