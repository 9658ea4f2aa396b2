"""From a job spec to the flow that it names."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import AutomaticDivergence, Evaluation
from symadj.service.contract.spec.flow import (
    CnfFlow,
    Divergence,
    ExactDivergence,
    HutchinsonDivergence,
    HutchPlusPlusDivergence,
    MlpField,
    MultiscaleFlow,
    PotentialField,
    ResidualField,
    VectorField,
)
from symadj.service.contract.spec.solver import (
    AdaptiveSolver,
    AdjointGradient,
    FixedSolver,
    Gradient,
    Keep,
    KeepBinomial,
    KeepBudget,
    KeepStages,
    KeepSteps,
    Solver,
    SymplecticGradient,
)
from symadj.workers.model.images import image_shape
from symadj_core import flows, gradients
from symadj_core.flows import Block, Exact, Flow, Hutchinson, HutchPlusPlus, MLPField
from symadj_core.gradients import Adjoint, GradientMethod, Symplectic, keep
from symadj_core.solvers import tableaus
from symadj_core.solvers.controller import Controller, FixedStep, IController

__all__ = ["DTYPES", "build_flow", "evaluation_flow", "has_cheap_trace", "validation_flow"]

DTYPES = {"float32": torch.float32, "float64": torch.float64}
_FIELD_DTYPES = {None: None, "bfloat16": torch.bfloat16}
# Below it the rounding errors of a float32 solve are as large as the error it is asked to control.
_TIGHTEST_FLOAT32_RTOL = 1e-5
_LARGEST_EXACT_DIM = 32


def build_flow(spec: JobSpec, dim: int, context_dim: int = 0, shape: tuple[int, int, int] | None = None) -> Flow:
    """Make the flow of ``spec`` for rows of ``dim`` values, on the CPU, its weights a function of ``spec.seed``.

    Args:
        context_dim: values of a row that are context, beside those ``dim``.
        shape: (channels, height, width) of the image in a row, or None.

    Raises:
        ValueError: the spec names something that symadj_core does not have, or that makes no sense for such rows.
    """
    flow = spec.flow
    options: dict[str, Any] = {
        "end_time": flow.end_time,
        "learn_end_time": flow.learn_end_time,
        "divergence": _divergence(flow.divergence),
        "solver": spec.solver.method,
        "controller": _controller(spec.solver),
        "gradient": _gradient(spec.gradient, spec.solver),
        "field_dtype": _FIELD_DTYPES[flow.field_dtype],
    }
    # The caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        match flow:
            case CnfFlow():
                blocks = [Block(_field(flow.field, dim, context_dim), **options) for _ in range(flow.blocks)]
                made = Flow(blocks, dim)
            case MultiscaleFlow():
                made = _multiscale(flow, image_shape(flow, shape), context_dim, options)
    return made.to(DTYPES[flow.dtype])


def validation_flow(flow: Flow, spec: JobSpec) -> tuple[Flow, str]:
    """Return a flow with the same weights for validation while training, and the name of its divergence.

    Its trace is exact where that is cheap: an estimated trace adds noise that is larger than the spread of the rows
    themselves, and with probes held fixed it does not average out over a series. For other fields of many dimensions
    the exact trace would take longer than the training between two validations, and training's divergence is used.
    """
    if has_cheap_trace(flow) or flow.dim <= _LARGEST_EXACT_DIM:
        return flow.with_settings(divergence=Exact()), Exact.name
    return flow, spec.flow.divergence.kind


def evaluation_flow(flow: Flow, spec: JobSpec, evaluation: Evaluation) -> tuple[Flow, dict[str, object]]:
    """Return a flow with the same weights for testing, and a description of how it is solved, as JSON values.

    The divergence is ``evaluation.divergence``. An adaptive solver's tolerances are multiplied by
    ``evaluation.tolerance_factor`` c, and the steps that it may take grow as it will need more of them; a fixed solver
    of order p takes ``c ** (-1 / p)`` times as many steps, which divides its error alike. Where the tolerance is more
    than float32 can resolve, the weights are copied to float64. A field in bfloat16 is evaluated in the flow's own
    precision.
    """
    solver, factor = spec.solver, evaluation.tolerance_factor
    flow = flow.with_settings(full_precision=True)
    divergence = _test_divergence(flow, evaluation)
    how: dict[str, object] = {"divergence": divergence.name, "method": solver.method, "dtype": spec.flow.dtype}
    if not isinstance(divergence, Exact):
        how["probes"] = divergence.probes
    if isinstance(solver, FixedSolver):
        order = tableaus.by_name(solver.method).order
        how["steps"] = steps = round(solver.steps * factor ** (-1 / order))
        return flow.with_settings(divergence=divergence, controller=FixedStep(grid=EvenGrid(steps))), how
    how["rtol"], how["atol"] = rtol, atol = solver.rtol * factor, solver.atol * factor
    if rtol < _TIGHTEST_FLOAT32_RTOL:
        how["dtype"] = "float64"
        flow = copy.deepcopy(flow).double()
    # A step's error is of one order more than the estimate's lower solution.
    more_steps = factor ** (-1 / (tableaus.by_name(solver.method).error_order + 1))
    controller = IController(rtol=rtol, atol=atol, max_steps=math.ceil(solver.max_steps * more_steps))
    return flow.with_settings(divergence=divergence, controller=controller), how


def has_cheap_trace(flow: Flow) -> bool:
    """Return whether the exact trace costs no more than an estimate, in time and in memory.

    It does for perceptrons of one or two hidden layers, save in reduced precision, which has no closed form.
    """
    return all(
        isinstance(block.field, MLPField) and len(block.field.layers) <= 3 and block.settings.field_dtype is None
        for block in flow.stack()
    )


@dataclass(frozen=True)
class EvenGrid:
    """A grid of a number of equal steps, however long the solve is (its end time may be learnt)."""

    steps: int

    def __call__(self, times: list[float]) -> list[float]:
        start, end = times[0], times[-1]
        return [start, *(start + (end - start) * n / self.steps for n in range(1, self.steps)), end]


def _field(field: VectorField, dim: int, context_dim: int) -> nn.Module:
    match field:
        case MlpField():
            return MLPField(
                dim,
                field.hidden,
                time=field.time,
                activation=field.activation,
                zero_init=field.zero_init,
                context_dim=context_dim,
            )
        case ResidualField():
            return flows.ResidualField(
                dim,
                field.width,
                field.depth,
                time=field.time,
                activation=field.activation,
                zero_init=field.zero_init,
                context_dim=context_dim,
            )
        case PotentialField():
            return flows.PotentialField(
                dim, field.width, field.depth, field.rank, zero_init=field.zero_init, context_dim=context_dim
            )


def _multiscale(flow: MultiscaleFlow, shape: tuple[int, int, int], context_dim: int, options: dict[str, Any]) -> Flow:
    def make_field(part: tuple[int, int, int]) -> flows.ConvField:
        return flows.ConvField(
            part,
            flow.hidden_channels,
            time=flow.time,
            activation=flow.activation,
            zero_init=flow.zero_init,
            context_dim=context_dim,
        )

    return flows.multiscale_flow(shape, make_field, levels=flow.levels, blocks=flow.blocks, **options)


def _test_divergence(flow: Flow, evaluation: Evaluation) -> Exact | Hutchinson | HutchPlusPlus:
    divergence = evaluation.divergence
    if not isinstance(divergence, AutomaticDivergence):
        return _divergence(divergence)
    if flow.dim <= divergence.exact_up_to or has_cheap_trace(flow):
        return Exact()
    return Hutchinson("rademacher", divergence.probes)


def _divergence(divergence: Divergence) -> Exact | Hutchinson | HutchPlusPlus:
    match divergence:
        case ExactDivergence():
            return Exact()
        case HutchinsonDivergence():
            return Hutchinson(divergence.distribution, divergence.probes)
        case HutchPlusPlusDivergence():
            return HutchPlusPlus(divergence.distribution, divergence.probes)


def _controller(solver: Solver) -> Controller:
    match solver:
        case AdaptiveSolver():
            return IController(rtol=solver.rtol, atol=solver.atol, max_steps=solver.max_steps)
        case FixedSolver():
            return FixedStep(grid=EvenGrid(solver.steps))


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


def _keep(section: Keep) -> keep.Keep:
    match section:
        case KeepStages():
            return keep.Stages()
        case KeepSteps():
            return keep.Steps()
        case KeepBinomial():
            return keep.Binomial(section.states)
        case KeepBudget():
            return keep.Budget(int(section.size))
