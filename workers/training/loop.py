"""The training loop of one rank.

What follows a step (validation, early stop, checkpoint) depends on the state alone. So a training that continues from
a checkpoint begins with whatever should have followed its last step.
"""

from __future__ import annotations

import time
from typing import Literal

from symadj.service.contract.records import StepRecord
from symadj.service.contract.spec.training import StopAfterMinutes, StopAfterSteps
from symadj.service.contract.states import CheckpointCause
from symadj.workers.data import PreparedData
from symadj.workers.distributed.ranks import AttemptFailedError
from symadj.workers.model.build import validation_flow
from symadj.workers.model.likelihood import HeldOut, on_device
from symadj.workers.outcome import DIVERGENCES
from symadj.workers.rank_run import RankRun
from symadj.workers.training.checkpointer import Checkpointer
from symadj.workers.training.schedules import early_stop_nlls
from symadj.workers.training.state import TrainingState
from symadj.workers.training.step import OptimiserStep
from symadj.workers.validation import Validation, stalls
from symadj_core.flows import piece_rows

__all__ = ["Ending", "train"]

Ending = Literal["finished", "stopped_early", "superseded"]


def train(run: RankRun, state: TrainingState, data: PreparedData, checkpointer: Checkpointer | None = None) -> Ending:
    """Continue the training of ``state``, in place, on this rank's share of ``data``; all ranks must call it.

    Args:
        run: on this rank.
        state: to continue from.
        data: all rows; this rank takes its share.
        checkpointer: stores the state during training; None on all ranks but one, or without checkpoints.

    Returns:
        What ended it: the spec, its early stop, or another attempt that has replaced this one.

    Raises:
        AttemptFailedError: on all ranks, when one of them could not continue, or the API asked to stop.
        PeerLostError: a rank died.
        TelemetryError: the API refuses the records.
    """
    return _Training(run, state, data, checkpointer).run()


class _Training:
    def __init__(
        self, run: RankRun, state: TrainingState, data: PreparedData, checkpointer: Checkpointer | None
    ) -> None:
        self.spec, self.ranks, self.outbox = run.spec, run.ranks, run.outbox
        self.state, self.checkpointer = state, checkpointer
        self.validated, _ = validation_flow(state.evaluated, self.spec)
        self.validation: HeldOut | None = None
        self.validation_rows = 0
        # The device may have no room for the data; what follows begins with a collective.
        self.ranks.together(lambda: self._load(data), phase="setup")
        self.began = time.perf_counter() - state.seconds
        batches = data.batches(self.spec.batch_size, self.spec.seed)
        self.step = OptimiserStep(run, state, batches, self.elapsed)

    def _load(self, data: PreparedData) -> None:
        """Bring this rank's validation rows to its device."""
        ranks, evaluation = self.ranks, self.spec.evaluation
        if evaluation is not None and evaluation.validate_every_steps is not None:
            part = data.validation.head(evaluation.validation_rows)
            self.validation_rows = len(part)
            rows = on_device(part.share(ranks.rank, ranks.size), self.state.flow, ranks.device)
            piece = piece_rows(self.validated, self.spec.batch_size // ranks.size)
            self.validation = HeldOut(rows, piece, self.spec.seed)

    def run(self) -> Ending:
        try:
            ending = self._after_step(self.state.seconds) if self.state.step else None
            while ending is None:
                seconds = self.step.take(self.state.step + 1)
                ending = "superseded" if seconds is None else self._after_step(seconds)
        except AttemptFailedError as error:
            # The state is that of the last complete step. After running out of memory, storing would need still more.
            if error.failure.stop is not None or error.failure.reason in DIVERGENCES:
                self._save(CheckpointCause.STOPPED)
            raise
        if ending != "superseded":
            self._save(CheckpointCause.FINISHED)
        return ending

    def elapsed(self) -> float:
        """Return the seconds of training until now, over all attempts."""
        return time.perf_counter() - self.began

    def _after_step(self, seconds: float) -> Ending | None:
        """Validate and store the state where due; return what ends the training, if anything does.

        Args:
            seconds: of training, the same on all ranks.
        """
        step, best = self.state.step, False
        ending: Ending | None = self._ending(step, seconds)
        validated = bool(self.state.validations) and self.state.validations[-1].step == step
        if self._validates_after(step, ending) and not validated:
            nll = self._validate(step)
            best = self.state.validated(Validation(step, nll))
            validated = True
            self._put_metrics(step, {"validation_nll": nll})
        if validated:
            ending = ending or self._early_ending()
        if self.checkpointer is not None:
            self.state.seconds = self.elapsed()
            self.checkpointer.after_step(self.state, is_best=best)
        return ending

    def _save(self, cause: CheckpointCause) -> None:
        self.state.seconds = self.elapsed()
        if self.checkpointer is not None:
            self.checkpointer.save(self.state, cause)

    def _put_metrics(self, step: int, metrics: dict[str, float]) -> None:
        if self.ranks.rank == 0:
            self.outbox.put(StepRecord(step=step, metrics=metrics))

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
        nlls = early_stop_nlls(self.spec, self.state.validations)
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

        def score() -> float:
            with memory.phase("validation"):
                return float(held_out.nll(self.validated, self.outbox.raise_if_stopped)[0].sum())

        memory = self.step.memory
        memory.begin()
        mine = self.ranks.together(score, step=step, phase="validation")
        memory.report(step, self.outbox)
        return self.ranks.sum([mine])[0] / self.validation_rows
