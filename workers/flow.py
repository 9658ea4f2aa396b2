"""From a job spec to the flow that it names."""

from __future__ import annotations

import copy

import torch

from service.spec import (
    AdaptiveSolver,
    AdjointGradient,
    Divergence,
    ExactDivergence,
    FixedSolver,
    Gradient,
    HutchinsonDivergence,
    JobSpec,
    Keep,
    KeepBinomial,
    KeepBudget,
    KeepStages,
    KeepSteps,
    Solver,
    SymplecticGradient,
)
from symadj_core import checkpoints, gradients, tableaus
from symadj_core.controller import Controller, FixedStep, IController
from symadj_core.flows import Block, Exact, Flow, Hutchinson, MLPField
from symadj_core.flows.divergence import Divergence as CoreDivergence
from symadj_core.gradients import Adjoint, GradientMethod, Symplectic

__all__ = ["DTYPES", "build_flow", "evaluation_flow", "validation_flow"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Below it the rounding errors of a float32 solve are as large as the error it is asked to control.
_TIGHTEST_FLOAT32_RTOL = 1e-5
_LARGEST_EXACT_DIM = 32


def build_flow(spec: JobSpec, dim: int) -> Flow:
    """Make the flow of ``spec`` for rows of ``dim`` values, on the CPU, its weights a function of ``spec.seed``.

    Raises:
        ValueError: the spec names something that symadj_core does not have.
    """
    flow = spec.flow
    # The caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        blocks = [
            Block(
                MLPField(dim, flow.hidden, time=flow.time, activation=flow.activation),
                end_time=flow.end_time,
                divergence=_divergence(flow.divergence),
                solver=spec.solver.method,
                controller=_controller(spec.solver, flow.end_time),
                gradient=_gradient(spec.gradient, spec.solver),
            )
            for _ in range(flow.blocks)
        ]
    return Flow(blocks, dim).to(DTYPES[flow.dtype])


def validation_flow(flow: Flow, spec: JobSpec) -> tuple[Flow, str]:
    """Return a flow with the same weights for validation while training, and the name of its divergence.

    Its trace is exact where that is cheap: an estimated trace adds noise that is larger than the spread of the rows
    themselves, and with probes held fixed it does not average out over a series. In many dimensions the exact trace
    would take longer than the training between two validations, and training's divergence is used.
    """
    if flow.dim <= _LARGEST_EXACT_DIM:
        return flow.with_settings(divergence=Exact()), Exact.name
    return flow, spec.flow.divergence.kind


def evaluation_flow(flow: Flow, spec: JobSpec, tolerance_factor: float) -> tuple[Flow, dict[str, object]]:
    """Return a flow with the same weights for testing, and a description of how it is solved, as JSON values.

    The trace is exact. An adaptive solver's tolerances are multiplied by ``tolerance_factor``; a fixed solver of
    order p takes ``tolerance_factor ** (-1 / p)`` times as many steps, which divides its error alike. Where the
    tolerance is more than float32 can resolve, the weights are copied to float64.
    """
    solver = spec.solver
    how: dict[str, object] = {"divergence": "exact", "method": solver.method, "dtype": spec.flow.dtype}
    if isinstance(solver, FixedSolver):
        order = tableaus.by_name(solver.method).order
        how["steps"] = steps = round(solver.steps * tolerance_factor ** (-1 / order))
        controller = FixedStep(step_size=spec.flow.end_time / steps)
        return flow.with_settings(divergence=Exact(), controller=controller), how
    how["rtol"], how["atol"] = rtol, atol = solver.rtol * tolerance_factor, solver.atol * tolerance_factor
    if rtol < _TIGHTEST_FLOAT32_RTOL:
        how["dtype"] = "float64"
        flow = copy.deepcopy(flow).double()
    return flow.with_settings(divergence=Exact(), rtol=rtol, atol=atol), how


def _divergence(divergence: Divergence) -> CoreDivergence:
    match divergence:
        case ExactDivergence():
            return Exact()
        case HutchinsonDivergence():
            return Hutchinson(divergence.distribution, divergence.probes)


def _controller(solver: Solver, end_time: float) -> Controller:
    match solver:
        case AdaptiveSolver():
            return IController(rtol=solver.rtol, atol=solver.atol, max_steps=solver.max_steps)
        case FixedSolver():
            return FixedStep(step_size=end_time / solver.steps)


def _gradient(gradient: Gradient, solver: Solver) -> GradientMethod:
    match gradient:
        case SymplecticGradient():
            return Symplectic(_keep(gradient.keep))
        case AdjointGradient(rtol=None, atol=None):
            return Adjoint()
        case AdjointGradient():
            if not isinstance(solver, AdaptiveSolver):
                raise ValueError("gradient.rtol and gradient.atol need solver.kind adaptive")
            return Adjoint(
                controller=IController(
                    rtol=solver.rtol if gradient.rtol is None else gradient.rtol,
                    atol=solver.atol if gradient.atol is None else gradient.atol,
                    max_steps=solver.max_steps,
                )
            )
        case _:
            return gradients.by_name(gradient.kind)


def _keep(keep: Keep) -> checkpoints.Keep:
    match keep:
        case KeepStages():
            return checkpoints.Stages()
        case KeepSteps():
            return checkpoints.Steps()
        case KeepBinomial():
            return checkpoints.Binomial(keep.states)
        case KeepBudget():
            return checkpoints.Budget(int(keep.size))
