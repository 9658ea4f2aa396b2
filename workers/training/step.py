"""One step of one rank.

This rank's rows of the batch, forward, backward, one exchange by which all ranks learn whether each succeeded and
whether to stop, the average of the gradients, and the optimiser's step. An exception of one rank's own work is caught
and exchanged, so that all ranks end at the same step and none waits for one that has given up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from symadj.service.contract.records import Phase, StepRecord
from symadj.service.contract.spec.recovery import FailOnDivergence, HalveRate, SkipBatch
from symadj.service.contract.states import StopReason
from symadj.workers.data import Batches
from symadj.workers.distributed.diagnosis import diagnose_rank, diverged
from symadj.workers.distributed.ranks import AttemptFailedError, DataParallel
from symadj.workers.model.likelihood import on_device
from symadj.workers.outcome import DIVERGENCES, Failure
from symadj.workers.rank_run import RankRun
from symadj.workers.training.objective import Objective
from symadj.workers.training.schedules import learning_rate, pretraining_steps
from symadj.workers.training.state import TrainingState
from symadj.workers.training.step_memory import StepMemory

__all__ = ["OptimiserStep"]

_STOP_REASONS = tuple(StopReason)


@dataclass(frozen=True)
class _Totals:
    """The sums over all ranks of what they exchange once a step.

    Attributes:
        figures: of the objective, averaged.
        counts: of the solver, averaged.
        failed: number of ranks that could not compute the step.
        fatal: how many of these failed by something other than a divergence.
        stop: why rank 0 must stop, counted from 1 in ``_STOP_REASONS``.
        superseded: number of ranks whose attempt was replaced.
        seconds: of training; rank 0's alone.
    """

    figures: dict[str, float]
    counts: dict[str, float]
    failed: float
    fatal: float
    stop: float
    superseded: float
    seconds: float


class OptimiserStep:
    """Takes the steps of a training.

    Args:
        run: on this rank.
        state: changed in place.
        batches: this rank takes its share of each.
        elapsed: returns the seconds of training until now.
    """

    def __init__(self, run: RankRun, state: TrainingState, batches: Batches, elapsed: Callable[[], float]) -> None:
        self.run, self.state, self.batches = run, state, batches
        self.spec, self.ranks, self.outbox = run.spec, run.ranks, run.outbox
        self.elapsed = elapsed
        self.parallel = DataParallel(Objective(run.spec, state.flow, run.ranks.rank), run.ranks)
        budget = run.spec.resources.memory_budget
        self.memory = StepMemory(run.ranks.device, run.ranks.rank, None if budget is None else int(budget))

    def take(self, step: int) -> float | None:
        """Take ``step``, counted from 1, and report it.

        Returns:
            The seconds of training until now, the same on all ranks; None where the attempt was replaced.

        Raises:
            AttemptFailedError: on all ranks, when one of them could not go on, or the API asked to stop; the state is
                then that of the step before, unless the optimiser itself failed.
            PeerLostError: a rank died.
            TelemetryError: the API refuses the records.
        """
        began = time.perf_counter()
        self.memory.begin()
        self.state.begin_step(step)
        rate = learning_rate(self.spec, step, self.state.validations) * 0.5**self.state.halvings
        figures, failure = self._forward_and_backward(step)
        totals = self._exchange(step, figures, failure)
        # Every rank sees that it must stop before the optimiser's turn: the step is not completed.
        if totals.superseded:
            return None
        if totals.stop:
            raise AttemptFailedError(Failure.stopped(_STOP_REASONS[int(totals.stop) - 1], {"step": self.state.step}))
        norm, divergence = (math.nan, self.ranks.first(failure)) if totals.failed else self._update(step, rate)
        metrics = {**totals.figures, "learning_rate": rate, "grad_norm": norm, **totals.counts}
        if divergence is None:
            self.state.end_step(step)
        else:
            self._continue_after(step, divergence, fatal=totals.fatal > 0)
            metrics["batches_skipped_in_a_row"] = self.state.skipped_in_a_row
        seconds = time.perf_counter() - began
        metrics |= {"step_seconds": seconds, "examples_per_second": self.spec.data.batch_size / seconds}
        self.memory.report(step, self.outbox)
        if self.ranks.rank == 0:
            self.outbox.put(StepRecord(step=step, metrics=metrics))
            self.state.history.add(metrics, self.memory.above_idle())
        return totals.seconds

    def _continue_after(self, step: int, failure: Failure, *, fatal: bool) -> None:
        """Continue after a divergence with unchanged weights, if the spec allows it, and allows it once more.

        Raises:
            AttemptFailedError: otherwise, on all ranks.
        """
        state, choice = self.state, self.spec.on_divergence
        match choice:
            case SkipBatch(max_in_a_row=most):
                left, what = most - state.skipped_in_a_row, "The batch is skipped"
            case HalveRate(max_halvings=most):
                left, what = most - state.halvings, "The batch is skipped and the learning rate halved"
            case FailOnDivergence():
                left, what = 0, ""
        if fatal or left <= 0:
            raise AttemptFailedError(failure)
        state.skip_step(step)
        state.halvings += isinstance(choice, HalveRate)
        # DDP waits for the gradients that a broken backward did not reach: a new one does not.
        state.optimizer.zero_grad()
        self.parallel = DataParallel(Objective(self.spec, state.flow, self.ranks.rank), self.ranks)
        message = f"{what} ({left - 1} more times are allowed): {failure.message}"
        self.run.event(f"divergence_{choice.kind}", message, **failure.data | {"reason": failure.reason})

    def _forward_and_backward(self, step: int) -> tuple[Mapping[str, Tensor], Failure | None]:
        """Return the figures of this rank's loss, and the failure if it could not be computed or differentiated."""
        figures: Mapping[str, Tensor] = {}
        phase: Phase = "forward"
        try:
            self.state.optimizer.zero_grad()
            batch = self.batches.batch(step - 1, self.ranks.rank, self.ranks.size)
            rows = on_device(batch, self.state.flow, self.ranks.device)
            with self.memory.phase(phase):
                loss, figures = self.parallel.model(rows, step)
                value = float(loss.detach())
            if not math.isfinite(value):
                return figures, diverged(f"the loss is {value} at step {step}", self._where(step, phase))
            phase = "backward"
            with self.memory.phase(phase):
                loss.backward()
        except Exception as error:
            return figures, diagnose_rank(error, self._where(step, phase))
        return figures, None

    def _exchange(self, step: int, figures: Mapping[str, Tensor], failure: Failure | None) -> _Totals:
        names = Objective.metrics(self.spec, step)
        counts = self._counts(step)
        own = [
            *(float(figures[name]) if name in figures else math.nan for name in names),
            *counts.values(),
            failure is not None,
            failure is not None and failure.reason not in DIVERGENCES,
            0 if self.outbox.stop is None or self.ranks.rank else _STOP_REASONS.index(self.outbox.stop) + 1,
            self.outbox.superseded,
            self.elapsed() if self.ranks.rank == 0 else 0.0,
        ]
        sums = iter(self.ranks.sum(own))
        size = self.ranks.size
        return _Totals({name: next(sums) / size for name in names}, {name: next(sums) / size for name in counts}, *sums)

    def _counts(self, step: int) -> dict[str, float]:
        """Return the counts of this rank's solver; empty where the step solves no ODE."""
        if step <= pretraining_steps(self.spec):
            return {}
        stats = self.state.flow.last_stats
        return {
            "nfe_forward": stats.nfe_forward,
            "nfe_backward": stats.nfe_backward,
            "steps_accepted": stats.accepted,
            "steps_rejected": stats.rejected,
        }

    def _update(self, step: int, rate: float) -> tuple[float, Failure | None]:
        """Average the gradients, clip them, do the optimiser's step.

        Returns:
            Their norm before clipping; and a failure if it is not finite, which all ranks see: the weights then are
            unchanged.

        Raises:
            AttemptFailedError: on all ranks, when one of them failed otherwise.
        """
        optimizer, parameters = self.state.optimizer, list(self.state.flow.parameters())
        failure = None
        norm = math.nan
        with self.memory.phase("optimizer"):
            self.parallel.average_gradients()
            try:
                gradients = [p.grad for p in parameters if p.grad is not None]
                total = torch.nn.utils.get_total_norm(gradients)
                norm = float(total)
                # All ranks have the same gradients now, and come to the same answer.
                if math.isfinite(norm):
                    if self.spec.optimizer.clip_norm is not None:
                        torch.nn.utils.clip_grads_with_norm_(parameters, self.spec.optimizer.clip_norm, total)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    optimizer.step()
                else:
                    message = f"the gradient's norm is {norm} at step {step}"
                    return norm, diverged(message, self._where(step, "optimizer"))
            except Exception as error:
                failure = diagnose_rank(error, self._where(step, "optimizer"))
        self.ranks.agree(failure)
        return norm, None

    def _where(self, step: int, phase: Phase) -> dict[str, object]:
        return self.ranks.where(
            step=step,
            phase=phase,
            epoch=(step - 1) // self.batches.batches_per_epoch,
            batch=(step - 1) % self.batches.batches_per_epoch,
            memory=self.memory.known(),
        )
