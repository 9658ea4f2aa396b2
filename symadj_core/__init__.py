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

    load("out/") -> TrainedFlow                     a trained flow, in the units of its data
    from symadj_core.trained import estimate_kl, export             its divergence from another; it as a program
    LoadError

    memory.PeakMeter, memory.LiveTensorMeter        what it costs

It needs torch, numpy and safetensors, and nothing else.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symadj_core.names import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Load the library with the first name that is asked for: what needs a part without torch need not wait for it."""
    return getattr(import_module("symadj_core.names"), name)


class _Library(ModuleType):
    """This package, whose functions of the name of a module are not replaced by that module when it is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in {"odeint", "solve"} and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Library


def __dir__() -> list[str]:
    return sorted(import_module("symadj_core.names").__all__)
