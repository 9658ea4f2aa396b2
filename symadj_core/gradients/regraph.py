"""Taking an accepted step again, this time with its graph. Shared by `aca` and `onecheckpoint`."""

from __future__ import annotations

from torch import Tensor

from symadj_core.gradients.base import Cotangents, Replay
from symadj_core.solvers.step import Step, Wanted, interpolate, take_step
from symadj_core.solvers.system import Slope
from symadj_core.solvers.timeloop import SolverStep

Pairs = tuple[list[Tensor | None], list[Tensor | None]]


def retake(
    replay: Replay,
    record: SolverStep,
    y: Tensor,
    q: Tensor | None,
    t: Tensor | None,
    first: Slope | None = None,
    *,
    next_slope: bool = False,
) -> Step:
    """The recorded step from (y, q), in the grad mode of the caller; t is given if its gradient is wanted."""
    wanted = Wanted(dense=bool(record.outputs), next_slope=next_slope)
    return take_step(replay.system, replay.tableau, record.interval(t), y, q, first, wanted, record.random)


def output_pairs(
    replay: Replay,
    record: SolverStep,
    step: Step,
    y: Tensor,
    q: Tensor | None,
    t: Tensor | None,
    cotangents: Cotangents,
) -> Pairs:
    """Interpolated outputs of the step with their cotangents."""
    h = record.interval(t).length
    outputs: list[Tensor | None] = []
    incoming: list[Tensor | None] = []
    for index, theta in record.outputs:
        weights = replay.tableau.dense_weights(record.theta(index, theta, t))
        outputs.extend(interpolate(replay.tableau, step, y, q, h, weights))
        incoming.extend((cotangents.state(index), cotangents.quadrature(index)))
    return outputs, incoming


def add(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    """x + y where None is zero."""
    if x is None or y is None:
        return x if y is None else y
    return x + y


def total_quadrature(cotangents: Cotangents) -> Tensor | None:
    """dL/dq0: q feeds back into nothing, so that every output's cotangent arrives there unchanged."""
    return None if cotangents.quadratures is None else cotangents.quadratures.sum(0)
