"""When the training's state is stored, and which of the stored ones are kept. Rank 0's work alone."""

from __future__ import annotations

import logging
import math
import time

from symadj.service.contract.records import CheckpointRecord
from symadj.service.contract.states import CheckpointCause
from symadj.workers.data import PreparedData
from symadj.workers.files.checkpoints import CheckpointFolder, CorruptCheckpointError, StoredCheckpoint
from symadj.workers.rank_run import RankRun
from symadj.workers.training.state import TrainingState

__all__ = ["Checkpointer"]

log = logging.getLogger(__name__)


class Checkpointer:
    """Stores the state of a training as its spec wants, and whenever the API asks.

    A checkpoint that can't be written (the storage is full, say) does not end the training: it is reported as an event,
    and the next one is tried when it is due.

    Args:
        run: on rank 0.
        data: that is trained on.
    """

    def __init__(self, run: RankRun, data: PreparedData) -> None:
        order = run.order
        self._run, self._order, self._data, self._outbox = run, order, data, run.outbox
        self._wanted = order.training.checkpoints
        self.folder = CheckpointFolder(order.storage, order.job_id)
        try:
            run.retries.while_unreachable(lambda: self.folder.take_over(order.attempt))
        except OSError as error:
            self._run.event("checkpoint_failed", f"{self.folder.name} can't be written now: {error}")
        self._asked = order.checkpoints_asked
        self._tried_at = time.monotonic()
        self._last: tuple[int, bool] | None = None
        self._unusable: set[str] = set()

    def after_step(self, state: TrainingState, *, is_best: bool) -> None:
        """Store ``state`` if that is due after the step that it has just completed.

        Args:
            state: of the training.
            is_best: its validation has the lowest NLL of all so far.
        """
        cause = self._due(state.step, is_best)
        if cause is not None:
            self.save(state, cause)

    def resumed(self, state: TrainingState, checkpoint: StoredCheckpoint) -> None:
        """Note that ``state`` was just loaded from ``checkpoint``, and report it.

        Its writer may have died before it could; and of a parent's the store does not know that this job has it, too.
        """
        self._last = _mark(state)
        try:
            self._report(checkpoint, [])
        except (OSError, CorruptCheckpointError) as error:
            log.warning("%s is not reported again: %s", checkpoint.name, error)

    def _due(self, step: int, is_best: bool) -> CheckpointCause | None:
        wanted = self._wanted
        if is_best and wanted.keep_best:
            return CheckpointCause.BEST
        if self._outbox.checkpoints_asked > self._asked:
            self._asked = self._outbox.checkpoints_asked
            return CheckpointCause.ASKED
        if wanted.every_steps is not None and step % wanted.every_steps == 0:
            return CheckpointCause.STEPS
        if wanted.every_minutes is not None and time.monotonic() - self._tried_at >= 60 * wanted.every_minutes:
            return CheckpointCause.MINUTES
        return None

    def save(self, state: TrainingState, cause: CheckpointCause) -> None:
        """Store ``state`` now, unless it is stored already."""
        if _mark(state) == self._last:
            return
        self._tried_at = time.monotonic()
        nll = state.validations[-1].nll if state.validations else None
        about = {"validation_nll": _json(nll), "data": self._data.sample(), "spec": self._order.training.stored()}
        try:
            stored = self.folder.write(state.state_dict(), attempt=self._order.attempt, cause=cause, about=about)
            surplus = self._surplus()
            self._report(stored, surplus)
        except (OSError, CorruptCheckpointError) as error:
            log.warning("no checkpoint after step %d: %s", state.step, error)
            self._run.event("checkpoint_failed", f"No checkpoint after step {state.step}: {error}", step=state.step)
            return
        self._last = _mark(state)
        for checkpoint in surplus:
            try:
                self.folder.remove(checkpoint)
            except OSError as error:
                log.warning("%s is not removed now: %s", checkpoint.name, error)

    def _report(self, stored: StoredCheckpoint, removed: list[StoredCheckpoint]) -> None:
        manifest = stored.manifest()
        self._outbox.put(
            CheckpointRecord(
                name=stored.name,
                step=stored.step,
                cause=manifest["cause"],
                validation_nll=manifest["validation_nll"],
                removed=[checkpoint.name for checkpoint in removed],
                **stored.seal(),
            )
        )

    def _surplus(self) -> list[StoredCheckpoint]:
        """Return what is kept no longer: all but the newest ones and the best one, of those that can be used."""
        try:
            stored = self.folder.stored()
        except OSError as error:
            log.warning("old checkpoints are not removed now: %s", error)
            return []
        usable = [checkpoint for checkpoint in stored if checkpoint.name not in self._unusable]
        kept = usable[-self._wanted.keep_last :]
        if self._wanted.keep_best:
            # Each of them was the best of all when it was written.
            kept += [checkpoint for checkpoint in usable if _is_best(checkpoint)][-1:]
        return [checkpoint for checkpoint in stored if checkpoint not in kept]

    def newest(self) -> StoredCheckpoint | None:
        """Return the newest one that is whole; None to start afresh.

        A job that goes on from another one finds that one's checkpoint in its own folder, as of attempt 0.

        Raises:
            CorruptCheckpointError: such a job has no whole checkpoint.
            DataError: it was trained on other data than those that are there now.
            OSError: the storage can't be read, or did not answer for as long as the run waits for it.
            StopRequestedError: the run must stop.
        """
        for checkpoint in reversed(self._run.retries.while_unreachable(self.folder.stored)):
            if checkpoint.name in self._unusable:
                continue
            try:
                self._run.retries.while_unreachable(checkpoint.verify)
                data = self._run.retries.while_unreachable(checkpoint.manifest)["data"]
            except CorruptCheckpointError as error:
                self.give_up(checkpoint, str(error))
            else:
                self._data.check_same(data, of=checkpoint.name)
                return checkpoint
        if self._order.training.parent is not None:
            raise CorruptCheckpointError(
                f"no checkpoint in {self.folder.name} is whole, and this job must go on from one: submit it again "
                "with another parent.step"
            )
        return None

    def give_up(self, checkpoint: StoredCheckpoint, problem: str) -> None:
        """Use a checkpoint no more, and keep it only until there is a new one."""
        self._unusable.add(checkpoint.name)
        self._run.event("checkpoint_corrupt", f"{checkpoint.name} can't be used: {problem}", checkpoint=checkpoint.name)


def _mark(state: TrainingState) -> tuple[int, bool]:
    """Return what identifies a state within its training: its step, and whether that was validated."""
    return state.step, bool(state.validations) and state.validations[-1].step == state.step


def _is_best(checkpoint: StoredCheckpoint) -> bool:
    try:
        return bool(checkpoint.manifest()["cause"] == CheckpointCause.BEST)
    except CorruptCheckpointError:
        return False


def _json(number: float | None) -> float | str | None:
    return number if number is None or math.isfinite(number) else str(number)
