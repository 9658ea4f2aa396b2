"""The symplectic adjoint method (Matsubara, Miyatake and Yaguchi, NeurIPS 2021, arXiv 2102.09750).

The adjoint of an explicit Runge-Kutta step, written by stage derivative, so that stages with b_i = 0 need neither a
division nor a special case:

    kappa_i  = h ( b_i lambda_{n+1} + sum_m b_i(theta_m) lambda_m + sum_{j>i} a_ji v_j )      i = s .. 1
    v_i      = (df/dy (t_i, Y_i))^T kappa_i
    g       += (df/dtheta (t_i, Y_i))^T kappa_i
    lambda_n = lambda_{n+1} + sum_m lambda_m + sum_i v_i

where m runs over the outputs that the step answered by interpolation, with cotangents lambda_m: the second term is
the exact transpose of the interpolant. Quadratures add g to f with the cotangent h (b_i mu + ...), where mu, their
adjoint, is constant between outputs. One use of the field has its graph alive at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from symadj_core.gradients.base import Cotangents, InputGradients, Replay, ReplayMethod
from symadj_core.gradients.keep import Keep, Recorder, Restorer, parse
from symadj_core.gradients.pullback import Pullback, StagePullback
from symadj_core.gradients.regraph import add, total_quadrature
from symadj_core.gradients.times import TimeGradient
from symadj_core.solvers.moving import Time, value_of
from symadj_core.solvers.randomness import RandomState
from symadj_core.solvers.step import stage_state, weighted_sum
from symadj_core.solvers.system import Slope
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import SolverStep


@dataclass(frozen=True)
class Symplectic(ReplayMethod):
    """Exact, with the graph of one stage alive: graph memory O(L).

    Attributes:
        keep: what of the forward solve is kept, a `symadj_core.gradients.keep.Keep` or its name: "stages" (s states a
            step, no recomputation), "steps" (one state a step, as in the paper; s - 1 more uses of the field a step,
            without their quadratures), "binomial(k)" (at most k states) or "budget(bytes)" (the cheapest that fits).
    """

    keep: str | Keep = "stages"
    name: ClassVar[str] = "symplectic"
    compiles: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.recorder()

    def recorder(self) -> Recorder:
        keep = parse(self.keep) if isinstance(self.keep, str) else self.keep
        return keep.recorder()

    def keeps_outputs(self, tableau: ButcherTableau, records: Sequence[SolverStep]) -> bool:
        return bool(records[-1].outputs) and any(tableau.dense_rows[-1])

    def sweep(self, replay: Replay, cotangents: Cotangents, pullback: Pullback) -> InputGradients:
        last = len(replay.times) - 1
        adjoint = _Adjoint(cotangents.state(last), cotangents.quadrature(last))
        times = TimeGradient(replay.t) if replay.t_wanted else None
        end_state = None if replay.states is None else replay.states[last]
        restorer = None
        if replay.slots is not None:
            restorer = Restorer(
                replay.system, replay.tableau, replay.records, replay.kept, replay.slots, replay.disposable
            )
        for n in reversed(range(len(replay.records))):
            record = replay.records[n]
            earlier = replay.records[n - 1] if n > 0 else None
            states = _stage_states(replay, n, restorer)
            sweep = _StepSweep(replay, record, earlier, cotangents, pullback, times)
            if end_state is not None:
                # No first stage of a later step stands at the same place: the end slot is pulled back by itself.
                sweep.pull_end_slot(adjoint, end_state)
            sweep.pull_stages(adjoint, states)
            pullback.end_step()
            end_state = states[0] if record.jump_at_start else None
            # A state that the restorer frees must not live on here.
            del states
        y0 = adjoint.state
        return InputGradients(y0, total_quadrature(cotangents), None if times is None else times.gradient())


def _stage_states(replay: Replay, n: int, restorer: Restorer | None) -> Sequence[Tensor]:
    """The stage states of step n, kept or computed again."""
    kept, tableau, record = replay.kept[n], replay.tableau, replay.records[n]
    if restorer is not None:
        start = restorer.state(n)
    elif len(kept) == tableau.stages:
        return kept
    else:
        start = kept[0]
    interval = record.interval()
    states, slopes = [start], list[Slope | None]()
    for i in range(1, tableau.stages):
        needed = any(row[i - 1] != 0.0 for row in tableau.a[i : tableau.stages])
        time, drawn = interval.at(tableau.c[i - 1], replay.system.precision.time), record.drawn(i - 1)
        slopes.append(replay.system.slope(time, states[i - 1], with_quadrature=False, random=drawn) if needed else None)
        states.append(stage_state(tableau, i, record.length, start, slopes))
    return states


@dataclass
class _Adjoint:
    """lambda and mu at the place that the sweep has reached; None is zero."""

    state: Tensor | None
    quadrature: Tensor | None


class _StepSweep:
    """The backward sweep over one step."""

    def __init__(
        self,
        replay: Replay,
        record: SolverStep,
        earlier: SolverStep | None,
        cotangents: Cotangents,
        pullback: Pullback,
        times: TimeGradient | None,
    ) -> None:
        self._replay, self._cotangents, self._pullback = replay, cotangents, pullback
        self._record, self._earlier = record, None if record.jump_at_start else earlier
        concerned = TimeGradient.concerns(record) or TimeGradient.concerns(self._earlier)
        self._times = times if concerned else None

    def pull_end_slot(self, adjoint: _Adjoint, y_end: Tensor) -> None:
        """Pull the cotangent of the end slot back to y_{n+1}, where no later step shares that slope."""
        moment = self._record.interval().at(1.0, self._replay.system.precision.time)
        kappa, rate = self._end_cotangents(self._record)
        drawn = self._record.drawn(self._replay.tableau.stages)
        pulled = self._pull(moment, y_end, kappa, rate, drawn)
        if pulled is None:
            return
        adjoint.state = add(adjoint.state, pulled.state)
        if self._times is not None:
            self._times.add_stage_time(self._record, 1.0, pulled.time)
            self._add_slope(self._record, self._replay.tableau.stages, pulled.slope, kappa, rate)

    def pull_stages(self, adjoint: _Adjoint, states: Sequence[Tensor]) -> None:
        """Pull lambda_{n+1} and mu back to the start of the step."""
        record, cotangents, tableau = self._record, self._cotangents, self._replay.tableau
        h, interval = record.length, record.interval()
        dense = [(m, tableau.dense_weights(theta)) for m, theta in record.outputs]
        pulled: list[Tensor | None] = [None] * tableau.stages
        for i in reversed(range(tableau.stages)):
            kappa = weighted_sum(
                [
                    (h * tableau.b[i], adjoint.state),
                    *((h * weights[i], cotangents.state(m)) for m, weights in dense),
                    *((h * tableau.a[j][i], pulled[j]) for j in range(i + 1, tableau.stages)),
                ]
            )
            rate = weighted_sum(
                [
                    (h * tableau.b[i], adjoint.quadrature),
                    *((h * weights[i], cotangents.quadrature(m)) for m, weights in dense),
                ]
            )
            # The end slot of the step before is this step's first use of the field: one pullback serves both.
            shared = self._earlier if i == 0 else None
            end_kappa, end_rate = (None, None) if shared is None else self._end_cotangents(shared)
            moment = interval.at(tableau.c[i], self._replay.system.precision.time)
            total, total_rate = add(kappa, end_kappa), add(rate, end_rate)
            stage = self._pull(moment, states[i], total, total_rate, record.drawn(i))
            if stage is None:
                continue
            pulled[i] = stage.state
            if self._times is not None:
                self._times.add_stage_time(record, tableau.c[i], stage.time)
                self._add_slope(record, i, stage.slope, kappa, rate)
                if shared is not None:
                    self._add_slope(shared, tableau.stages, stage.slope, end_kappa, end_rate)
        gained = [*pulled, *(cotangents.state(m) for m, _ in dense), cotangents.state(record.start_tie)]
        adjoint.state = add(adjoint.state, weighted_sum((1.0, v) for v in gained))
        for index in (record.start_tie, *(m for m, _ in dense)):
            adjoint.quadrature = add(adjoint.quadrature, cotangents.quadrature(index))

    def _end_cotangents(self, record: SolverStep) -> tuple[Tensor | None, Tensor | None]:
        """kappa of the slope at the end of a step, which only interpolated outputs weigh."""
        h, tableau = record.length, self._replay.tableau
        weights = [(m, h * value_of(tableau.dense_weights(theta)[tableau.stages])) for m, theta in record.outputs]
        state = weighted_sum((w, self._cotangents.state(m)) for m, w in weights)
        return state, weighted_sum((w, self._cotangents.quadrature(m)) for m, w in weights)

    def _pull(
        self, moment: Time, y: Tensor, kappa: Tensor | None, rate: Tensor | None, random: RandomState | None
    ) -> StagePullback | None:
        wanted = self._times is not None
        if kappa is None and rate is None and not wanted:
            return None
        # An output at the very end of a step gives the end slot no weight, but its time moves that weight.
        rate_wanted = wanted and self._cotangents.quadratures is not None
        return self._pullback.through_stage(
            self._replay.system, moment, y, kappa, rate, time_wanted=wanted, rate_wanted=rate_wanted, random=random
        )

    def _add_slope(
        self, record: SolverStep, slot: int, slope: Slope | None, kappa: Tensor | None, rate: Tensor | None
    ) -> None:
        assert self._times is not None
        assert slope is not None
        self._times.add_slope(record, self._replay.tableau, slot, slope, kappa, rate, self._cotangents)
