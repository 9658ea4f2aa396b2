"""symadj_core, by every gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.captured import captured
from benchmarks.peers.torch_field import fields, finish, on_device, step_in_one_tensor
from benchmarks.problem import ATOL, FIXED_STEPS, RTOL, Problem
from benchmarks.result import Result
from symadj_core import FixedStep, controllers, gradients, odeint_symplectic_adjoint
from symadj_core.flows import Block, Flow
from symadj_core.solvers.controller import Controller

VARIANTS: dict[str, dict[str, Any]] = {
    "symplectic": {"name": "symplectic"},
    # As the peers do it: the log-determinant takes part in the choice of the steps.
    "symplectic, error of y and log-det": {"name": "symplectic"},
    "symplectic, field.compile()": {"name": "symplectic"},
    "symplectic, keep steps": {"name": "symplectic", "keep": "steps"},
    "aca": {"name": "aca"},
    "onecheckpoint": {"name": "onecheckpoint"},
    "backprop": {"name": "backprop"},
    "adjoint": {"name": "adjoint"},
    "symplectic, fixed steps": {"name": "symplectic"},
    "symplectic, fixed steps, field.compile()": {"name": "symplectic"},
    "symplectic, fixed steps, CUDA graph": {"name": "symplectic"},
    "symplectic, fixed steps, field.compile(), CUDA graph": {"name": "symplectic"},
}


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step of a flow: the loss is ``-flow(x).mean()``. Or one over a field as users write it."""
    if "in one tensor" in variant:
        return step_in_one_tensor(problem, odeint_symplectic_adjoint, compiled="compile" in variant)
    control = "augmented" if "log-det" in variant else "state"
    controller: Controller = controllers.by_name("i", rtol=RTOL, atol=ATOL, control=control)
    solver = "dopri5"
    if "fixed" in variant:
        controller, solver = FixedStep(1 / FIXED_STEPS), "rk4_38"
    gradient = gradients.by_name(**VARIANTS[variant])
    made = fields(problem)
    if "compile" in variant:
        for field in made:
            field.compile()
    blocks = [
        Block(field, solver=solver, controller=controller, gradient=gradient, divergence="hutchinson") for field in made
    ]
    flow = Flow(blocks, problem.size.dim)
    data = on_device(problem.data)

    def loss_with_gradient() -> Tensor:
        flow.zero_grad(set_to_none=True)
        loss = -flow(data, seed=0).mean()
        loss.backward()
        return loss.detach()

    work = captured(loss_with_gradient) if "CUDA graph" in variant else loss_with_gradient

    def step() -> Result:
        loss, stats = work(), flow.last_stats
        return finish(loss, flow, stats.nfe_forward, stats.nfe_backward)

    return step
