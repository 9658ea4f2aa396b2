"""From a job spec to the flow that it names."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, assert_never

import torch

from symadj.service.contract.result import TestSolver
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import AutomaticDivergence, Evaluation
from symadj.service.contract.spec.flow import CnfFlow, MultiscaleFlow
from symadj.service.contract.spec.solver import (
    MOST_ADAPTIVE_STEPS,
    MOST_FIXED_STEPS,
    AdaptiveSolver,
    FixedSolver,
    Gradient,
    Solver,
    SymplecticGradient,
)
from symadj.workers.data import DataError
from symadj.workers.model.image_shapes import image_shape
from symadj_core import flows
from symadj_core.flows import DIVERGENCES, FIELDS, Block, ConvField, Divergence, Exact, Flow, Hutchinson
from symadj_core.gradients import GRADIENTS, GradientMethod
from symadj_core.gradients.keep import KEEPS
from symadj_core.solvers.controller import Controller, FixedStep, IController
from symadj_core.solvers.tableaus import TABLEAUS

__all__ = ["DTYPES", "build_flow", "evaluation_flow", "validation_flow"]

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
        DataError: the spec names something that makes no sense for such rows.
    """
    flow = spec.flow
    options: dict[str, Any] = {
        "end_time": flow.end_time,
        "learn_end_time": flow.learn_end_time,
        "divergence": DIVERGENCES.make(flow.divergence.kind, **flow.divergence.options()),
        "solver": spec.solver.method,
        "controller": _controller(spec.solver),
        "gradient": _gradient(spec.gradient),
        "field_dtype": _FIELD_DTYPES[flow.field_dtype],
    }
    # The caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]), _fit_for_the_data("flow"):
        torch.manual_seed(spec.seed)
        match flow:
            case CnfFlow(field=field):
                blocks = [
                    Block(FIELDS[field.kind](dim, context_dim=context_dim, **field.options()), **options)
                    for _ in range(flow.blocks)
                ]
                made = Flow(blocks, dim)
            case MultiscaleFlow():
                made = flows.multiscale_flow(
                    image_shape(flow, shape),
                    lambda part: ConvField(part, context_dim=context_dim, **flow.field_options()),
                    levels=flow.levels,
                    blocks=flow.blocks,
                    **options,
                )
            case _:
                assert_never(flow)
    return made.to(DTYPES[flow.dtype])


def validation_flow(flow: Flow, spec: JobSpec) -> tuple[Flow, str]:
    """Return a flow with the same weights for validation while training, and the name of its divergence.

    Its trace is exact where that is cheap: an estimated trace adds noise that is larger than the spread of the rows
    themselves, and with probes held fixed it does not average out over a series. For other fields of many dimensions
    the exact trace would take longer than the training between two validations, and training's divergence is used.
    """
    if flow.has_cheap_trace or flow.dim <= _LARGEST_EXACT_DIM:
        return flow.with_settings(divergence=Exact()), Exact.name
    return flow, spec.flow.divergence.kind


def evaluation_flow(flow: Flow, spec: JobSpec, evaluation: Evaluation) -> tuple[Flow, TestSolver]:
    """Return a flow with the same weights for testing, and how it is solved.

    The divergence is ``evaluation.divergence``. An adaptive solver's tolerances are multiplied by
    ``evaluation.tolerance_factor`` c, and the steps that it may take grow as it will need more of them; a fixed solver
    of order p takes ``c ** (-1 / p)`` times as many steps, which divides its error alike. Neither takes more than a
    spec may ask for. Where the tolerance is more than float32 can resolve, the weights are copied to float64. A field
    in bfloat16 is evaluated in the flow's own precision.

    Raises:
        DataError: the divergence makes no sense for so many columns.
    """
    solver, factor, tableau = spec.solver, evaluation.tolerance_factor, TABLEAUS[spec.solver.method]
    flow = flow.with_settings(full_precision=True)
    divergence = _test_divergence(flow, evaluation)
    how = TestSolver(
        divergence=divergence.name,
        probes=getattr(divergence, "probes", None),
        method=solver.method,
        dtype=spec.flow.dtype,
    )
    if isinstance(solver, FixedSolver):
        steps = min(round(solver.steps * factor ** (-1 / tableau.order)), MOST_FIXED_STEPS)
        controller: Controller = FixedStep(grid=EvenGrid(steps))
        with _fit_for_the_data("evaluation.divergence"):
            tested = flow.with_settings(divergence=divergence, controller=controller)
        return tested, how.model_copy(update={"steps": steps})
    # A tolerance below what a float holds would be 0.
    rtol, atol = (max(tolerance * factor, sys.float_info.min) for tolerance in (solver.rtol, solver.atol))
    how = how.model_copy(update={"rtol": rtol, "atol": atol})
    if rtol < _TIGHTEST_FLOAT32_RTOL:
        how = how.model_copy(update={"dtype": "float64"})
        flow = copy.deepcopy(flow).double()
    # A step's error is of one order more than the estimate's lower solution.
    more_steps = factor ** (-1 / (tableau.error_order + 1))
    most = min(math.ceil(solver.max_steps * more_steps), MOST_ADAPTIVE_STEPS)
    with _fit_for_the_data("evaluation.divergence"):
        tested = flow.with_settings(divergence=divergence, controller=IController(rtol=rtol, atol=atol, max_steps=most))
    return tested, how


@contextmanager
def _fit_for_the_data(what: str) -> Iterator[None]:
    """Report what symadj_core refuses to make for the data's columns as what it is."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{what} does not fit the data: {error}") from error


@dataclass(frozen=True)
class EvenGrid:
    """A grid of a number of equal steps, however long the solve is (its end time may be learnt)."""

    steps: int

    def __call__(self, times: list[float]) -> list[float]:
        start, end = times[0], times[-1]
        return [start, *(start + (end - start) * n / self.steps for n in range(1, self.steps)), end]


def _test_divergence(flow: Flow, evaluation: Evaluation) -> Divergence:
    divergence = evaluation.divergence
    if not isinstance(divergence, AutomaticDivergence):
        return DIVERGENCES.make(divergence.kind, **divergence.options())
    if flow.dim <= divergence.exact_up_to or flow.knows_trace:
        return Exact()
    return Hutchinson("rademacher", divergence.probes)


def _controller(solver: Solver) -> Controller:
    match solver:
        case AdaptiveSolver():
            return IController(rtol=solver.rtol, atol=solver.atol, max_steps=solver.max_steps)
        case FixedSolver():
            return FixedStep(grid=EvenGrid(solver.steps))
        case _:
            assert_never(solver)


def _gradient(gradient: Gradient) -> GradientMethod:
    options = gradient.options()
    if isinstance(gradient, SymplecticGradient):
        options["keep"] = KEEPS.make(gradient.keep.kind, **gradient.keep.options())
    return GRADIENTS.make(gradient.kind, **options)
