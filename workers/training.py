"""The training loop of one rank.

A step: this rank's rows of the batch, forward, backward, one exchange in which all ranks learn how it went on each
and whether to stop, the average of the gradients, and the optimiser's step. What a rank's own work raises is caught
and exchanged, so that all ranks end at the same step and none waits for one that has given up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import torch
from torch import Tensor

from service.records import Phase, StepRecord
from service.spec import JobSpec, StopAfterMinutes, StopAfterSteps
from workers.data import PreparedData
from workers.diagnosis import diagnose, diverged
from workers.flow import validation_flow
from workers.likelihood import HeldOut, on_device, piece_rows
from workers.objective import Objective
from workers.ranks import DataParallel, Ranks
from workers.reasons import Failure
from workers.schedules import learning_rate, likelihood_validations, pretraining_steps
from workers.state import TrainingState
from workers.step_memory import StepMemory
from workers.telemetry import Outbox
from workers.validation import Validation, stalls

__all__ = ["Ending", "train"]

Ending = Literal["finished", "stopped_early", "cancelled", "superseded"]


@dataclass(frozen=True)
class _Totals:
    """What the ranks tell each other once a step, summed over them.

    Attributes:
        figures: of the objective.
        counts: of the solver.
        failed, cancel, superseded: ranks that failed, that see a wish to cancel, that are not wanted any more.
        seconds: of training; rank 0's alone.
    """

    figures: dict[str, float]
    counts: dict[str, float]
    failed: float
    cancel: float
    superseded: float
    seconds: float


def train(spec: JobSpec, state: TrainingState, data: PreparedData, ranks: Ranks, outbox: Outbox) -> Ending:
    """Go on training from ``state``, in place, on this rank's share of ``data``; all ranks call it.

    Returns what ended it: the spec, its early stop, the user, or that the attempt is not wanted any more.

    Raises:
        AttemptFailedError: on all ranks, when one of them could not go on.
        PeerLostError: a rank died.
        TelemetryError: the API refuses the records.
    """
    return _Training(spec, state, data, ranks, outbox).run()


class _Training:
    def __init__(self, spec: JobSpec, state: TrainingState, data: PreparedData, ranks: Ranks, outbox: Outbox) -> None:
        self.spec, self.state, self.ranks, self.outbox = spec, state, ranks, outbox
        self.batches = data.batches(spec.data.batch_size, spec.seed)
        self.validated, _ = validation_flow(state.evaluated, spec)
        self.validation: HeldOut | None = None
        self.validation_rows = 0
        # The device may have no room for the data; DDP's own start is a collective and comes after.
        ranks.together(lambda: self._load(data), phase="setup")
        self.parallel = DataParallel(Objective(spec, state.flow, ranks.rank), ranks)
        budget = spec.resources.memory_budget
        self.memory = StepMemory(ranks.device, ranks.rank, None if budget is None else int(budget))
        self.began = time.perf_counter() - state.seconds

    def _load(self, data: PreparedData) -> None:
        """Bring this rank's validation rows to its device."""
        ranks, evaluation = self.ranks, self.spec.evaluation
        if evaluation is not None and evaluation.validate_every_steps is not None:
            part = data.validation.head(evaluation.validation_rows)
            self.validation_rows = len(part)
            rows = on_device(part.share(ranks.rank, ranks.size), self.state.flow, ranks.device)
            piece = piece_rows(self.validated, self.spec.data.batch_size // ranks.size)
            self.validation = HeldOut(rows, piece, self.spec.seed)

    def run(self) -> Ending:
        ending: Ending | None = None
        while ending is None:
            ending = self._step(self.state.step + 1)
        self.state.seconds = time.perf_counter() - self.began
        return ending

    def _step(self, step: int) -> Ending | None:
        began = time.perf_counter()
        self.memory.begin()
        self.state.begin_step(step)
        rate = learning_rate(self.spec, step, self.state.validations)
        figures, failure = self._forward_and_backward(step)
        totals = self._exchange(step, figures, failure)
        if totals.failed:
            self.ranks.fail_together(failure)
        # Every rank sees a wish to end before the optimiser's turn: the step is not completed.
        if totals.superseded:
            return "superseded"
        if totals.cancel:
            return "cancelled"
        gradient_norm = self._update(step, rate)
        self.state.end_step(step)
        seconds = time.perf_counter() - began
        metrics = {
            **totals.figures,
            "learning_rate": rate,
            "grad_norm": gradient_norm,
            **totals.counts,
            "step_seconds": seconds,
            "examples_per_second": self.spec.data.batch_size / seconds,
        }
        self.memory.report(step, self.outbox)
        ending = self._ending(step, totals.seconds)
        if self._validates_after(step, ending):
            metrics["validation_nll"] = nll = self._validate(step)
            self.state.validated(Validation(step, nll))
            ending = ending or self._early_ending()
        if self.ranks.rank == 0:
            self.outbox.put(StepRecord(time=datetime.now(UTC), step=step, metrics=metrics))
            self.state.history.add(metrics, self.memory.above_idle())
        return ending

    def _forward_and_backward(self, step: int) -> tuple[Mapping[str, Tensor], Failure | None]:
        """Return the figures of this rank's loss, and why it could not be computed or differentiated."""
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
            return figures, diagnose(error, self._where(step, phase))
        return figures, None

    def _exchange(self, step: int, figures: Mapping[str, Tensor], failure: Failure | None) -> _Totals:
        names = Objective.metrics(self.spec, step)
        counts = self._counts(step)
        own = [
            *(float(figures[name]) if name in figures else math.nan for name in names),
            *counts.values(),
            failure is not None,
            self.outbox.cancel,
            self.outbox.superseded,
            time.perf_counter() - self.began if self.ranks.rank == 0 else 0.0,
        ]
        sums = iter(self.ranks.sum(own))
        size = self.ranks.size
        return _Totals({name: next(sums) / size for name in names}, {name: next(sums) / size for name in counts}, *sums)

    def _counts(self, step: int) -> dict[str, float]:
        """Return what the solver of this rank counted; nothing where the step solves no ODE."""
        if step <= pretraining_steps(self.spec):
            return {}
        stats = self.state.flow.last_stats
        return {
            "nfe_forward": stats.nfe_forward,
            "nfe_backward": stats.nfe_backward,
            "steps_accepted": stats.accepted,
            "steps_rejected": stats.rejected,
        }

    def _update(self, step: int, rate: float) -> float:
        """Average the gradients, clip them, do the optimiser's step; return their norm before clipping."""
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
                    failure = diverged(f"the gradient's norm is {norm} at step {step}", self._where(step, "optimizer"))
            except Exception as error:
                failure = diagnose(error, self._where(step, "optimizer"))
        self.ranks.agree(failure)
        return norm

    def _ending(self, step: int, seconds: float) -> Ending | None:
        match self.spec.stop:
            case StopAfterSteps(max_steps=limit):
                return "finished" if step >= limit else None
            case StopAfterMinutes(max_minutes=limit):
                return "finished" if seconds >= 60 * limit else None

    def _early_ending(self) -> Ending | None:
        stop = self.spec.early_stop
        if stop is None:
            return None
        nlls = likelihood_validations(self.spec, self.state.validations)
        return "stopped_early" if stalls(nlls, stop.patience, stop.min_improvement) else None

    def _validates_after(self, step: int, ending: Ending | None) -> bool:
        if self.validation is None:
            return False
        assert self.spec.evaluation is not None
        every = self.spec.evaluation.validate_every_steps
        return ending == "finished" or (every is not None and step % every == 0)

    def _validate(self, step: int) -> float:
        """Return the mean NLL of the validation rows, with training's tolerances."""
        held_out = self.validation
        assert held_out is not None
        mine = self.ranks.together(
            lambda: float(held_out.nll(self.validated, self.outbox.heed)[0].sum()), step=step, phase="validation"
        )
        return self.ranks.sum([mine])[0] / self.validation_rows

    def _where(self, step: int, phase: Phase) -> dict[str, object]:
        return self.ranks.where(
            step=step,
            phase=phase,
            epoch=(step - 1) // self.batches.batches_per_epoch,
            batch=(step - 1) % self.batches.batches_per_epoch,
            memory=self.memory.known(),
        )
