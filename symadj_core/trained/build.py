"""From the description of a flow, as a job spec and `config.json` have it, to the flow."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch

from symadj_core.flows import DIVERGENCES, Block, ConvField, Divergence, Exact, Flow, Hutchinson, multiscale_flow
from symadj_core.flows.fields import FIELDS, VectorField, plugin_field
from symadj_core.gradients import GradientMethod
from symadj_core.solvers.controller import Controller, EvenGrid, FixedStep, IController
from symadj_core.solvers.tableaus import TABLEAUS

__all__ = ["DTYPES", "USUAL_EVALUATION", "as_tested", "build_flow"]

Described = Mapping[str, Any]

DTYPES = {"float32": torch.float32, "float64": torch.float64}
_FIELD_DTYPES = {None: None, "bfloat16": torch.bfloat16}
# Steps of one solve that a spec may ask for, and no test exceeds.
MOST_ADAPTIVE_STEPS = 1_000_000
MOST_FIXED_STEPS = 100_000
# Below it the rounding errors of a float32 solve are as large as the error it is asked to control.
_TIGHTEST_FLOAT32_RTOL = 1e-5
# How a flow is tested of which a job had no evaluation: the defaults of that section.
USUAL_EVALUATION: Described = {
    "divergence": {"kind": "automatic", "exact_up_to": 128, "probes": 4},
    "tolerance_factor": 0.01,
}


def build_flow(
    flow: Described,
    solver: Described,
    dim: int,
    context_dim: int = 0,
    shape: tuple[int, int, int] | None = None,
    *,
    gradient: str | GradientMethod = "symplectic",
    seed: int = 0,
) -> Flow:
    """The flow that a spec's sections `flow` and `solver` describe, on the CPU.

    Args:
        flow, solver: as JSON values, with every default written out.
        dim: D, values of a row that are modelled.
        context_dim: C, values of a row that are context.
        shape: (channels, height, width) of the image in a row, for a multiscale flow.
        gradient: a gradient method or its name.
        seed: that the weights are a function of.

    Raises:
        ValueError: a kind that is not known, or that makes no sense for such rows.
        PluginError: the field is of a package that is not installed here, or in another version.
    """
    options: dict[str, Any] = {
        "end_time": flow["end_time"],
        "learn_end_time": flow["learn_end_time"],
        "divergence": _divergence(flow["divergence"]),
        "solver": solver["method"],
        "controller": _controller(solver),
        "gradient": gradient,
        "field_dtype": _FIELD_DTYPES[flow["field_dtype"]],
    }
    # The caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match flow["kind"]:
            case "cnf":
                blocks = [Block(_field(flow["field"], dim, context_dim), **options) for _ in range(flow["blocks"])]
                made = Flow(blocks, dim)
            case "multiscale":
                if shape is None:
                    raise ValueError("a multiscale flow is one of images: the rows have no shape")
                convolutional = {
                    "hidden": flow["hidden_channels"],
                    **{name: flow[name] for name in ("time", "activation", "zero_init")},
                }
                made = multiscale_flow(
                    shape,
                    lambda part: ConvField(part, context_dim=context_dim, **convolutional),
                    levels=flow["levels"],
                    blocks=flow["blocks"],
                    **options,
                )
            case other:
                raise ValueError(f"unknown flow {other!r}: there are cnf, multiscale")
    return made.to(DTYPES[flow["dtype"]])


def as_tested(flow: Flow, solver: Described, evaluation: Described = USUAL_EVALUATION) -> Flow:
    """A flow with the same weights, solved as a job's test solves it.

    The divergence is `evaluation.divergence`. An adaptive solver's tolerances are multiplied by
    `evaluation.tolerance_factor` c, and the steps that it may take grow as it will need more of them; a fixed solver of
    order p takes c^(-1 / p) times as many steps, which divides its error alike. Neither takes more than a spec may ask
    for. Where the tolerance is more than float32 can resolve, the weights are copied to float64. A field in bfloat16
    is evaluated in the flow's own precision.

    Args:
        flow: as trained.
        solver, evaluation: the spec's sections, as JSON values.

    Raises:
        ValueError: the divergence makes no sense for so many columns.
    """
    factor, tableau = evaluation["tolerance_factor"], TABLEAUS[solver["method"]]
    flow = flow.with_settings(full_precision=True)
    divergence = _test_divergence(flow, evaluation["divergence"])
    if solver["kind"] == "fixed":
        steps = min(round(solver["steps"] * factor ** (-1 / tableau.order)), MOST_FIXED_STEPS)
        return flow.with_settings(divergence=divergence, controller=FixedStep(grid=EvenGrid(steps)))
    # A tolerance below what a float holds would be 0.
    rtol, atol = (max(solver[name] * factor, sys.float_info.min) for name in ("rtol", "atol"))
    if rtol < _TIGHTEST_FLOAT32_RTOL:
        flow = copy.deepcopy(flow).double()
    # A step's error is of one order more than the estimate's lower solution.
    more_steps = factor ** (-1 / (tableau.error_order + 1))
    most = min(math.ceil(solver["max_steps"] * more_steps), MOST_ADAPTIVE_STEPS)
    return flow.with_settings(divergence=divergence, controller=IController(rtol=rtol, atol=atol, max_steps=most))


def _kind_and_options(described: Described) -> tuple[str, dict[str, Any]]:
    return described["kind"], {name: value for name, value in described.items() if name != "kind"}


def _field(described: Described, dim: int, context_dim: int) -> VectorField:
    kind, options = _kind_and_options(described)
    if kind == "plugin":
        return plugin_field(options["name"], options["package"])(dim, context_dim=context_dim, **options["options"])
    return FIELDS[kind](dim, context_dim=context_dim, **options)


def _divergence(described: Described) -> Divergence:
    kind, options = _kind_and_options(described)
    return DIVERGENCES.make(kind, **options)


def _test_divergence(flow: Flow, described: Described) -> Divergence:
    if described["kind"] != "automatic":
        return _divergence(described)
    if flow.dim <= described["exact_up_to"] or flow.knows_trace:
        return Exact()
    return Hutchinson("rademacher", described["probes"])


def _controller(solver: Described) -> Controller:
    if solver["kind"] == "fixed":
        return FixedStep(grid=EvenGrid(solver["steps"]))
    return IController(rtol=solver["rtol"], atol=solver["atol"], max_steps=solver["max_steps"])
