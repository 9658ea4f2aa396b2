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
from symadj.service.contract.states import ReasonCode, StopReason
from symadj.workers.data import Batches
from symadj.workers.distributed.diagnosis import diagnose_rank, diverged, over_budget
from symadj.workers.distributed.ranks import AttemptFailedError, DataParallel, PeerLostError
from symadj.workers.distributed.shared_steps import PeerFailedError, SharedSteps
from symadj.workers.model.likelihood import on_device
from symadj.workers.outcome import DIVERGENCES, Failure
from symadj.workers.rank_run import RankRun
from symadj.workers.step_memory import StepMemory
from symadj.workers.training.auto_gradient import AutoGradient, budget_of_device
from symadj.workers.training.objective import Objective, microbatches
from symadj.workers.training.schedules import learning_rate, pretraining_steps
from symadj.workers.training.state import TrainingState

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
        out_of_memory: how many of these had too little memory.
        over_budget: number of ranks whose peak was above their budget.
        reducible: how many of these began the step within it.
        leaner: how many of those that ran out of memory may keep fewer states.
        stop: why rank 0 must stop, counted from 1 in ``_STOP_REASONS``.
        superseded: number of ranks whose attempt was replaced.
        seconds: of training; rank 0's alone.
    """

    figures: dict[str, float]
    counts: dict[str, float]
    failed: float
    fatal: float
    out_of_memory: float
    over_budget: float
    reducible: float
    leaner: float
    stop: float
    superseded: float
    seconds: float

    @property
    def only_memory_lacks(self) -> bool:
        """Whether the step could be taken with smaller microbatches, as far as is known."""
        return 0 < self.out_of_memory == self.fatal and not self.stop and not self.superseded


@dataclass(frozen=True)
class _Computed:
    """What came of forward and backward on one rank.

    Attributes:
        figures: of the objective, mean over its rows; empty if they could not all be computed.
        counts: of the solver, mean over its rows, or of the last solve if that failed; empty where none is solved.
        failure: why the loss could not be computed or differentiated; None too where another rank's failure ended it.
    """

    figures: Mapping[str, float]
    counts: Mapping[str, float]
    failure: Failure | None = None


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
        self.shared = SharedSteps.wanted_by(run.spec.solver, run.ranks)
        # What is not a training step is solved by the steps of each rank's rows: they may be in pieces.
        self.flow = state.flow if self.shared is None else self.shared.flow(state.flow)
        self.objective = Objective(run.spec, self.flow)
        self.parallel = DataParallel(self.objective, run.ranks)
        budget = run.spec.resources.memory_budget
        self.memory = StepMemory(run.ranks.device, run.ranks.rank, None if budget is None else int(budget))
        room = budget if run.ranks.device.type == "cpu" else budget_of_device(run.ranks.device)
        auto = run.spec.gradient.kind == "auto"
        self.auto = AutoGradient(self.flow, int(room)) if auto and room is not None else None

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
        self.memory.begin(short=step <= pretraining_steps(self.spec))
        self.state.begin_step(step)
        rate = learning_rate(self.spec, step, self.state.validations) * 0.5**self.state.halvings
        computed = self._forward_and_backward(step)
        totals = self._exchange(step, computed)
        while totals.only_memory_lacks and self._needs_less_now(step, leaner=totals.leaner > 0):
            self.memory.begin()
            computed = self._forward_and_backward(step)
            totals = self._exchange(step, computed)
        # Every rank sees that it must stop before the optimiser's turn: the step is not completed.
        if totals.superseded:
            return None
        if totals.stop:
            raise AttemptFailedError(Failure.stopped(_STOP_REASONS[int(totals.stop) - 1], {"step": self.state.step}))
        if totals.over_budget and not totals.failed:
            self._keep_to_budget(step, reducible=totals.reducible > 0)
        norm, divergence = (math.nan, self.ranks.first(computed.failure)) if totals.failed else self._update(step, rate)
        metrics = {**totals.figures, "learning_rate": rate, "grad_norm": norm, **totals.counts}
        if divergence is None:
            self.state.end_step(step)
        else:
            self._continue_after(step, divergence, fatal=totals.fatal > 0)
            metrics["batches_skipped_in_a_row"] = self.state.skipped_in_a_row
        seconds = time.perf_counter() - began
        metrics |= {"step_seconds": seconds, "examples_per_second": self.spec.batch_size / seconds}
        self.memory.report(step, self.outbox)
        if self.auto is not None and divergence is None and step > pretraining_steps(self.spec):
            chosen = self.auto.after_step(self.memory.peak())
            if chosen is not None:
                self._tell_kept(step, chosen, f"that is what the peak of step {step} leaves of the budget")
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
        message = f"{what} ({left - 1} more times are allowed): {failure.message}"
        self.run.event(f"divergence_{choice.kind}", message, **failure.data | {"reason": failure.reason})

    def _needs_less_now(self, step: int, *, leaner: bool) -> bool:
        """After memory ran out, make the step need less, if the spec leaves a way; the same way on all ranks."""
        if leaner and self.auto is not None:
            self._tell_kept(step, self.auto.keep_less(), f"memory ran out in step {step}, which is computed again")
            return True
        if not self._halve_microbatches():
            return False
        self._tell_halved(step, "out_of_memory", f"memory ran out in step {step}, which is computed again")
        return True

    def _tell_kept(self, step: int, size: int, why: str) -> None:
        self.run.event(
            "gradient_kept_states_chosen",
            f"the states of a solve may take {size} bytes from now on: {why}",
            step=step,
            size_bytes=size,
            memory=self.memory.known(),
        )

    @property
    def microbatch(self) -> int:
        """How many of its rows a rank computes at once."""
        share = self.spec.batch_size // self.ranks.size
        size = self.spec.resources.microbatch_size
        asked = min(size, share) if isinstance(size, int) else share
        return math.ceil(asked / 2.0**self.state.microbatch_halvings)

    def _halve_microbatches(self) -> bool:
        """Compute half as many rows at once from now on, if the spec allows it and a rank has more than one; say so."""
        may = self.spec.resources.microbatch_size == "auto" and self.microbatch > 1
        self.state.microbatch_halvings += may
        return may

    def _tell_halved(self, step: int, cause: str, why: str) -> None:
        rows = self.microbatch
        self.run.event(
            "microbatch_halved",
            f"every worker computes {rows} rows at once from now on: {why}",
            step=step,
            microbatch_size=rows,
            cause=cause,
            memory=self.memory.known(),
        )

    def _keep_to_budget(self, step: int, *, reducible: bool) -> None:
        """After a peak above the budget of a rank, halve the microbatches, or do what the spec says.

        Raises:
            AttemptFailedError: on all ranks, if it says so and microbatches are not to be halved.
        """
        if reducible and self._halve_microbatches():
            self._tell_halved(step, "memory_budget", f"a worker's peak in step {step} was above memory_budget")
            return
        if self.spec.resources.over_budget == "fail":
            excess, budget = self.memory.excess(), self.spec.resources.memory_budget or 0
            where = self._where(step, "backward")
            self.ranks.agree(over_budget(budget, budget + excess, where) if excess else None)

    def _forward_and_backward(self, step: int) -> _Computed:
        """Compute the loss of this rank's rows and its gradient, one microbatch after another."""
        figures: dict[str, float] = {}
        counts: dict[str, float] = {}
        phase: Phase = "forward"
        try:
            self.state.optimizer.zero_grad()
            batch = self.batches.batch(step - 1, self.ranks.rank, self.ranks.size)
            rows = on_device(batch, self.flow, self.ranks.device)
            for microbatch in microbatches(self.spec, rows, step, self.ranks.rank, self.microbatch):
                phase = "forward"
                with self.memory.phase(phase):
                    loss, parts = self.objective(microbatch, step)
                    value = float(loss.detach())
                figures = _added(figures, parts, microbatch.share)
                if not math.isfinite(value):
                    failure = diverged(f"the loss is {value} at step {step}", self._where(step, phase))
                    return _Computed(figures, self._counts(step), failure)
                phase = "backward"
                with self.memory.phase(phase):
                    (microbatch.share * loss).backward()
                counts = _added(counts, self._counts(step), microbatch.share)
        except PeerLostError:
            raise
        except PeerFailedError:
            return _Computed({}, self._counts(step))
        except Exception as error:
            return _Computed({}, self._counts(step), diagnose_rank(error, self._where(step, phase)))
        return _Computed(figures, counts)

    def _exchange(self, step: int, computed: _Computed) -> _Totals:
        names = Objective.metrics(self.spec, step)
        failure, excess = computed.failure, self.memory.excess()
        if self.shared is not None and step > pretraining_steps(self.spec):
            self.shared.finish(failed=failure is not None)
        out_of_memory = failure is not None and failure.reason is ReasonCode.OUT_OF_MEMORY
        leaner = self.auto is not None and self.auto.may_keep_less
        if leaner:
            excess = 0  # It keeps less from the next step on.
        own = [
            *(computed.figures.get(name, math.nan) for name in names),
            *(computed.counts[name] for name in self._counts(step)),
            failure is not None,
            failure is not None and failure.reason not in DIVERGENCES,
            out_of_memory,
            excess > 0,
            excess > 0 and self.memory.idle_fits(),
            out_of_memory and leaner,
            0 if self.outbox.stop is None or self.ranks.rank else _STOP_REASONS.index(self.outbox.stop) + 1,
            self.outbox.superseded,
            self.elapsed() if self.ranks.rank == 0 else 0.0,
        ]
        sums = iter(self.ranks.sum(own))
        size = self.ranks.size
        return _Totals(
            {name: next(sums) / size for name in names},
            {name: next(sums) / size for name in self._counts(step)},
            *sums,
        )

    def _counts(self, step: int) -> dict[str, float]:
        """Return the counts of this rank's last solve; empty where the step solves no ODE."""
        if step <= pretraining_steps(self.spec):
            return {}
        stats = self.flow.last_stats
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
        optimizer, parameters = self.state.optimizer, list(self.flow.parameters())
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


def _added(sums: Mapping[str, float], figures: Mapping[str, float | Tensor], share: float) -> dict[str, float]:
    """Return ``sums`` with ``share`` of each of ``figures`` added."""
    return {name: sums.get(name, 0.0) + share * float(figure) for name, figure in figures.items()}
