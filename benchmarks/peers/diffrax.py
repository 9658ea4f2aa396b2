"""diffrax (Kidger 2021), compiled: the augmented state, by its default adjoint, and with recorded steps taken again.

The second variant solves once for the accepted steps alone, and differentiates a solve over exactly these: no error
estimate and no rejected step is then differentiated, and every state has a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from benchmarks.peers.jax_field import augmented, flat, loss
from benchmarks.problem import ATOL, RTOL, Problem
from benchmarks.result import Result

VARIANTS = ("RecursiveCheckpointAdjoint, jit", "recorded steps, jit")


def _solve(layers: Any, probe: Any, state: Any, **options: Any) -> Any:
    term = diffrax.ODETerm(lambda t, state, args: augmented(layers, probe, t, state[0]))
    return diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, 1.0, None, state, **options)


def make(problem: Problem, variant: str) -> Callable[[], Result]:
    """Return a training step, compiled."""
    return (_with_recorded_steps if "recorded" in variant else _with_checkpoints)(problem)


def _with_checkpoints(problem: Problem) -> Callable[[], Result]:
    controller, adjoint = diffrax.PIDController(rtol=RTOL, atol=ATOL), diffrax.RecursiveCheckpointAdjoint()
    data = jnp.asarray(problem.data)
    weights = jax.tree.map(jnp.asarray, problem.layers)

    def loss_of(blocks: Any) -> Any:
        state: Any = (data, jnp.zeros(len(data)))
        steps = 0
        for layers, probe in zip(blocks, problem.probes, strict=True):
            solution = _solve(layers, jnp.asarray(probe), state, stepsize_controller=controller, adjoint=adjoint)
            state = (solution.ys[0][-1], solution.ys[1][-1])
            steps = steps + solution.stats["num_accepted_steps"]
        return loss(*state), steps

    compiled = jax.jit(jax.value_and_grad(loss_of, has_aux=True)).lower(weights).compile()
    # XLA's allocator keeps what it once had, so that the system's high-water mark says nothing: ask the compiler.
    peak = compiled.memory_analysis().temp_size_in_bytes

    def step() -> Result:
        (value, steps), gradient = compiled(weights)
        return Result(float(value), flat(gradient), 6 * int(steps) + 1, None, peak)

    return step


def _with_recorded_steps(problem: Problem) -> Callable[[], Result]:
    controller = diffrax.PIDController(rtol=RTOL, atol=ATOL)
    data = jnp.asarray(problem.data)
    weights = jax.tree.map(jnp.asarray, problem.layers)
    probes = [jnp.asarray(probe) for probe in problem.probes]
    # Of the accepted steps their times alone.
    saved = diffrax.SaveAt(subs=[diffrax.SubSaveAt(t1=True), diffrax.SubSaveAt(steps=True, fn=lambda t, y, args: t)])

    def record(blocks: Any) -> Any:
        state: Any = (data, jnp.zeros(len(data)))
        times = []
        for layers, probe in zip(blocks, probes, strict=True):
            solution = _solve(layers, probe, state, stepsize_controller=controller, saveat=saved)
            ends, moments = solution.ys
            state = (ends[0][-1], ends[1][-1])
            times.append((moments, solution.stats["num_accepted_steps"], solution.stats["num_steps"]))
        return times

    recorder = jax.jit(record).lower(weights).compile()

    def loss_of(blocks: Any, grids: Sequence[Any]) -> Any:
        state: Any = (data, jnp.zeros(len(data)))
        for layers, probe, grid in zip(blocks, probes, grids, strict=True):
            steps = len(grid) - 1
            solution = _solve(
                layers,
                probe,
                state,
                stepsize_controller=diffrax.StepTo(ts=grid),
                adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=steps),
                max_steps=steps,
            )
            state = (solution.ys[0][-1], solution.ys[1][-1])
        return loss(*state)

    # One program for every list of numbers of steps.
    programs: dict[tuple[int, ...], Any] = {}

    def step() -> Result:
        recorded = recorder(weights)
        counts = tuple(int(accepted) for _, accepted, _ in recorded)
        grids = [
            jnp.concatenate([jnp.zeros(1), moments[: count - 1], jnp.ones(1)])
            for (moments, _, _), count in zip(recorded, counts, strict=True)
        ]
        if counts not in programs:
            programs[counts] = jax.jit(jax.value_and_grad(loss_of)).lower(weights, grids).compile()
        program = programs[counts]
        value, gradient = program(weights, grids)
        peak = max(x.memory_analysis().temp_size_in_bytes for x in (recorder, program))
        uses = sum(6 * int(attempts) + 1 + 6 * count for (_, _, attempts), count in zip(recorded, counts, strict=True))
        return Result(float(value), flat(gradient), uses, None, peak)

    return step
