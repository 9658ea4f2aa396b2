"""gradsolve (Spurio Mancini and others 2026): steps recorded by its loop on the device, and taken again by its scan.

It solves ensembles, each member with steps and parameters of its own; here the whole batch is one member, so that the
weights are shared and the steps are those of the batch, as everywhere else. Its method is tsit5, and it computes in
float64. Its two halves are called as `grad_closure` does, but for the step list, which is an argument here: a closure
with the list built in would be compiled again at every training step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradsolve  # noqa: F401 - sets jax up for float64
import jax
import jax.numpy as jnp
import numpy as np
from gradsolve.solvers.tsit5_replay import record_tsit5_jax
from gradsolve.warp.warp_replay import replay_solve_jax
from jax.flatten_util import ravel_pytree

from benchmarks.peers.jax_field import augmented, flat, loss
from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result

VARIANTS = ("record and replay, float64",)


@dataclass
class _Block:
    """What gradsolve calls a problem: the state is (y, log det) of the batch in one vector."""

    probe: Any
    unravel: Callable[[Any], Any]
    name: str = "cnf"
    t0: float = 0.0
    t1: float = 1.0
    is_stiff: bool = False

    @property
    def dim(self) -> int:
        return int(self.probe.shape[0] * (self.probe.shape[1] + 1))

    def f_jax(self, t: Any, state: Any, parameters: Any) -> Any:
        dy, rate = augmented(
            self.unravel(parameters), self.probe, t, state[: self.probe.size].reshape(self.probe.shape)
        )
        return jnp.concatenate([dy.ravel(), rate])


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step, compiled."""
    data = jnp.asarray(problem.data, jnp.float64)
    layers = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), problem.layers)
    weights, unravels = zip(*(ravel_pytree(block) for block in layers), strict=True)
    blocks = [
        _Block(jnp.asarray(probe, jnp.float64), unravel)
        for probe, unravel in zip(problem.probes, unravels, strict=True)
    ]
    start = jnp.concatenate([data.ravel(), jnp.zeros(len(data))])[None]

    def loss_of(parameters: Any, steps: Any) -> Any:
        state = start
        for block, own, sizes in zip(blocks, parameters, steps, strict=True):
            state = replay_solve_jax(block, state, own[None], sizes)
        return loss(state[0, : data.size].reshape(data.shape), state[0, data.size :])

    # One program for every list of numbers of steps.
    programs: dict[tuple[int, ...], Any] = {}

    def step() -> Result:
        state: Any = np.asarray(start)
        steps, uses = [], 0
        for block, own in zip(blocks, weights, strict=True):
            state, sizes, accepted, rejected = record_tsit5_jax(
                block.f_jax,
                state,
                np.asarray(own)[None],
                block.t0,
                block.t1,
                rtol=RTOL,
                atol=ATOL,
                return_rejected=True,
                recorder="jax",
            )
            steps.append(jnp.asarray(sizes))
            uses += 6 * int(2 * accepted[0] + rejected[0]) + 1
        counts = tuple(sizes.shape[1] for sizes in steps)
        if counts not in programs:
            programs[counts] = jax.jit(jax.value_and_grad(loss_of)).lower(list(weights), steps).compile()
        program = programs[counts]
        value, gradient = program(list(weights), steps)
        layers_of = [unravel(own) for unravel, own in zip(unravels, gradient, strict=True)]
        return Result(float(value), flat(layers_of), uses, None, program.memory_analysis().temp_size_in_bytes)

    return step
