"""symadj_core, by every gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers.torch_field import fields, finish, on_device
from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result
from symadj_core import controllers, gradients
from symadj_core.flows import Block, Flow

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
}


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step of a flow: the loss is ``-flow(x).mean()``."""
    control = "augmented" if "log-det" in variant else "state"
    controller = controllers.by_name("i", rtol=RTOL, atol=ATOL, control=control)
    gradient = gradients.by_name(**VARIANTS[variant])
    made = fields(problem)
    if "compile" in variant:
        for field in made:
            field.compile()
    blocks = [Block(field, controller=controller, gradient=gradient, divergence="hutchinson") for field in made]
    flow = Flow(blocks, problem.size.dim)
    data = on_device(problem.data)

    def step() -> Result:
        flow.zero_grad(set_to_none=True)
        loss = -flow(data, seed=0).mean()
        loss.backward()
        stats = flow.last_stats
        return finish(loss, flow, stats.nfe_forward, stats.nfe_backward)

    return step
