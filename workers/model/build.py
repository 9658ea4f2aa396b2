"""From a job spec to the flow that it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from symadj.service.contract.result import TestSolver
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.evaluation import Evaluation
from symadj.service.contract.spec.flow import MultiscaleFlow
from symadj.service.contract.spec.solver import AutoGradient, Gradient, SymplecticGradient
from symadj.workers.data import DataError
from symadj.workers.model.image_shapes import image_shape
from symadj_core import trained
from symadj_core.flows import Exact, Flow
from symadj_core.gradients import GRADIENTS, GradientMethod, Symplectic
from symadj_core.gradients.keep import KEEPS
from symadj_core.solvers.controller import EvenGrid, FixedStep, IController

__all__ = ["build_flow", "evaluation_flow", "gradient_of", "validation_flow"]

_LARGEST_EXACT_DIM = 32


def build_flow(spec: JobSpec, dim: int, context_dim: int = 0, shape: tuple[int, int, int] | None = None) -> Flow:
    """Make the flow of ``spec`` for rows of ``dim`` values, on the CPU, its weights a function of ``spec.seed``.

    Args:
        context_dim: values of a row that are context, beside those ``dim``.
        shape: (channels, height, width) of the image in a row, or None.

    Raises:
        DataError: the spec names something that makes no sense for such rows.
        PluginError: the field is of a package that is not installed here, or in another version.
    """
    if isinstance(spec.flow, MultiscaleFlow):
        shape = image_shape(spec.flow, shape)
    described = spec.stored()
    with _fit_for_the_data("flow"):
        return trained.build_flow(
            described["flow"],
            described["solver"],
            dim,
            context_dim,
            shape,
            gradient=gradient_of(spec.gradient),
            seed=spec.seed,
        )


def validation_flow(flow: Flow, spec: JobSpec, exact_up_to: int = _LARGEST_EXACT_DIM) -> tuple[Flow, str]:
    """Return a flow with the same weights for validation while training, and the name of its divergence.

    Its trace is exact where that is cheap, and up to ``exact_up_to`` columns: an estimated trace adds noise that is
    larger than the spread of the rows themselves, and with probes held fixed it does not average out over a series. For
    other fields of many dimensions the exact trace would take longer than the training between two validations, and
    training's divergence is used.
    """
    if flow.has_cheap_trace or flow.dim <= exact_up_to:
        return flow.with_settings(divergence=Exact()), Exact.name
    return flow, spec.flow.divergence.kind


def evaluation_flow(flow: Flow, spec: JobSpec, evaluation: Evaluation) -> tuple[Flow, TestSolver]:
    """Return a flow with the same weights for testing, and how it is solved.

    See ``symadj_core.trained.as_tested``, by which a trained flow that was taken home is solved too.

    Raises:
        DataError: the divergence makes no sense for so many columns.
    """
    with _fit_for_the_data("evaluation.divergence"):
        tested = trained.as_tested(flow, spec.solver.model_dump(), evaluation.model_dump())
    settings = tested.stack()[0].settings
    how = TestSolver(
        divergence=settings.divergence.name,
        probes=getattr(settings.divergence, "probes", None),
        method=spec.solver.method,
        dtype=str(next(tested.parameters()).dtype).removeprefix("torch."),
    )
    match settings.controller:
        case FixedStep(grid=EvenGrid(steps)):
            return tested, how.model_copy(update={"steps": steps})
        case IController(rtol=rtol, atol=atol):
            return tested, how.model_copy(update={"rtol": rtol, "atol": atol})
    raise TypeError(f"a spec has no {type(settings.controller).__name__}")


@contextmanager
def _fit_for_the_data(what: str) -> Iterator[None]:
    """Report what symadj_core refuses to make for the data's columns as what it is."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{what} does not fit the data: {error}") from error


def gradient_of(gradient: Gradient) -> GradientMethod:
    """Return the method that a section names."""
    if isinstance(gradient, AutoGradient):
        return Symplectic()  # until the training measures its memory
    options = gradient.arguments()
    if isinstance(gradient, SymplecticGradient):
        options["keep"] = KEEPS.make(gradient.keep.kind, **gradient.keep.arguments())
    return GRADIENTS.make(gradient.kind, **options)
