"""diffrax (Kidger 2021), compiled: RecursiveCheckpointAdjoint over the augmented state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result

VARIANTS = {"RecursiveCheckpointAdjoint, jit": diffrax.RecursiveCheckpointAdjoint()}


def _field(layers: Any, t: Any, y: Any) -> Any:
    for number, layer in enumerate(layers):
        gate = jax.nn.sigmoid(layer["gate"] * t + layer["gate_bias"])
        y = (y @ layer["weight"].T + layer["bias"]) * gate + layer["shift"] * t
        if number < len(layers) - 1:
            y = jnp.tanh(y)
    return y


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step, compiled."""
    adjoint = VARIANTS[variant]
    solver, controller = diffrax.Dopri5(), diffrax.PIDController(rtol=RTOL, atol=ATOL)
    data = jnp.asarray(problem.data)
    weights = jax.tree.map(jnp.asarray, problem.layers)

    def loss_of(blocks: Any) -> Any:
        y, log_det = data, jnp.zeros(len(data))
        steps = 0
        for layers, probe in zip(blocks, problem.probes, strict=True):
            probe = jnp.asarray(probe)

            def augmented(t: Any, state: Any, args: Any, layers: Any = layers, probe: Any = probe) -> Any:
                dy, pull = jax.vjp(lambda at: _field(layers, t, at), state[0])
                return dy, (pull(probe)[0] * probe).sum(-1)

            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(augmented),
                solver,
                0.0,
                1.0,
                None,
                (y, log_det),
                stepsize_controller=controller,
                adjoint=adjoint,
            )
            y, log_det = solution.ys[0][-1], solution.ys[1][-1]
            steps = steps + solution.stats["num_accepted_steps"]
        log_normal = -0.5 * ((y**2).sum(-1) + y.shape[-1] * np.log(2 * np.pi))
        return -(log_normal + log_det).mean(), steps

    compiled = jax.jit(jax.value_and_grad(loss_of, has_aux=True)).lower(weights).compile()
    # XLA's allocator keeps what it once had, so that the system's high-water mark says nothing: ask the compiler.
    peak = compiled.memory_analysis().temp_size_in_bytes

    def step() -> Result:
        (loss, steps), gradient = compiled(weights)
        leaves = [
            np.asarray(layer[name]).ravel()
            for block in gradient
            for layer in block
            for name in ("gate", "gate_bias", "shift", "weight", "bias")  # the order of torch's parameters()
        ]
        return Result(float(loss), np.concatenate(leaves), 6 * int(steps) + 1, None, peak)

    return step
