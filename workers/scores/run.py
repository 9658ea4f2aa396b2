"""One rank's part of an attempt to score rows: its share of them, and on rank 0 the file of all scores."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from symadj.service.contract.flow_question import MediaType
from symadj.service.contract.layout import SCORES_FILE
from symadj.service.contract.records import OutcomeRecord, StepRecord
from symadj.service.contract.result import JobResult, ScoresResult
from symadj.service.contract.states import JobState, ReasonCode
from symadj.service.contract.storage import open_storage
from symadj.workers.data import DataError
from symadj.workers.data.scored import RowsInOrder
from symadj.workers.distributed.diagnosis import over_budget
from symadj.workers.distributed.ranks import AttemptFailedError
from symadj.workers.model.stored_flow import load_flow
from symadj.workers.outcome import Failure
from symadj.workers.rank_run import RankRun
from symadj.workers.scores.pieces import Piece, PieceFolder, cut, digest, share
from symadj.workers.scores.rows import flow_files, rows_of, spec_of
from symadj.workers.step_memory import StepMemory
from symadj_core import TrainedFlow
from symadj_core.errors import LoadError

__all__ = ["ScoresRun"]

Rows = NDArray[np.float64]

# Rows at the beginning and at the end by which the ranks know that they have opened the same ones.
_LOOKED_AT = 16


@dataclass
class _Moments:
    """Number, mean and sum of squared deviations of values that come some at a time (Chan et al. 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Rows) -> None:
        mean, count = float(values.mean()), self.count + len(values)
        shift = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + shift**2 * self.count * len(values) / count
        self.mean += shift * len(values) / count
        self.count = count

    @property
    def stderr(self) -> float | None:
        return math.sqrt(self.squares / (self.count - 1) / self.count) if self.count > 1 else None


class ScoresRun:
    """An attempt to score rows, on one rank; all ranks go through it side by side, a piece each at a time."""

    def __init__(self, run: RankRun) -> None:
        self.rank_run, self.order, self.ranks, self.outbox = run, run.order, run.ranks, run.outbox
        self.spec = spec_of(run.order)
        self.pieces = PieceFolder(run.order)

    def run(self) -> OutcomeRecord | None:
        """Return the outcome, or None when the attempt was replaced."""
        try:
            return self._run()
        except AttemptFailedError as error:
            return error.failure.outcome()

    def _run(self) -> OutcomeRecord | None:
        flow, rows = self.ranks.together(self._set_up, phase="setup")
        self._check_same(rows)
        width = len(flow.columns) + len(flow.context_columns)
        pieces = cut(rows.total, width, flow.rows_at_once, self.spec.resources.workers)
        finished = self.ranks.together(lambda: self._finished(pieces), phase="setup")
        self.rank_run.event(
            "scoring_started",
            f"{self.ranks.size} ranks score {rows.total:,} rows in {len(pieces)} pieces"
            + (f", of which {len(finished)} were finished before" if finished else ""),
            ranks=self.ranks.size,
            device=self.ranks.device.type,
            rows=rows.total,
            pieces=len(pieces),
            pieces_finished=len(finished),
        )
        begun = time.monotonic()
        computed = self._score_all(flow, rows, pieces, finished, begun)
        if computed is None:
            return None
        moments = self.ranks.together(
            lambda: self._write(pieces) if self.ranks.rank == 0 else _Moments(), phase="artifacts"
        )
        seconds = time.monotonic() - begun
        scores = ScoresResult(
            rows=rows.total,
            log_prob=moments.mean,
            log_prob_stderr=moments.stderr,
            seconds=seconds,
            rows_per_second=computed / seconds,
        )
        return OutcomeRecord(state=JobState.SUCCEEDED, result=JobResult(scores=scores))

    def _set_up(self) -> tuple[TrainedFlow, RowsInOrder]:
        rows, _ = self.rank_run.retries.while_unreachable(lambda: rows_of(self.order))
        spec, storage = self.spec, open_storage(self.order.storage)
        options: dict[str, Any] = {"settings": spec.settings, "units": spec.units, "device": self.ranks.device}
        try:
            flow = self.rank_run.retries.while_unreachable(
                lambda: load_flow(storage, *flow_files(self.order), **options)
            )
        except (FileNotFoundError, LoadError) as error:
            raise DataError(f"the flow of job {spec.trained.job} can't be loaded: {error}") from error
        return flow, rows

    def _check_same(self, rows: RowsInOrder) -> None:
        """Raise ``AttemptFailedError`` where another rank has opened other rows: most changes show, not every one."""

        def look() -> tuple[int, bytes]:
            first = digest(*rows.read(0, min(rows.total, _LOOKED_AT)))
            return rows.total, first + digest(*rows.read(max(0, rows.total - _LOOKED_AT), rows.total))

        seen = self.ranks.gather(self.ranks.together(look, phase="setup"))
        if len({*seen}) > 1:
            totals = ", ".join(f"{total:,}" for total, _ in seen)
            message = (
                f"{rows.name} was changed while the ranks opened it, with {totals} rows: leave it alone till the end"
            )
            raise AttemptFailedError(Failure(ReasonCode.DATA_ERROR, message, {"phase": "setup", "file": rows.name}))

    def _finished(self, pieces: Sequence[Piece]) -> Set[str]:
        there = self.rank_run.retries.while_unreachable(self.pieces.finished)
        return there & {str(piece) for piece in pieces}

    def _score_all(
        self, flow: TrainedFlow, rows: RowsInOrder, pieces: Sequence[Piece], finished: Set[str], begun: float
    ) -> int | None:
        """Score all pieces; return how many rows this attempt had to compute, None when it was replaced."""
        memory = StepMemory(self.ranks.device, self.ranks.rank, self.spec.resources.memory_budget)
        own = share(pieces, self.ranks.rank, self.ranks.size)
        done = computed = 0
        for step in range(1, -(-len(pieces) // self.ranks.size) + 1):
            piece = own[step - 1] if step <= len(own) else Piece(rows.total, rows.total)
            place = {"phase": "scoring", "step": step - 1, "first_row": piece.begin, "end_row": piece.end}
            new = self.ranks.together(partial(self._score, flow, rows, piece, finished, memory), **place)
            if len(piece):
                memory.report(step, self.outbox)
            if self.spec.resources.over_budget == "fail":
                budget, excess = self.spec.resources.memory_budget or 0, memory.excess() if len(piece) else 0
                where = self.ranks.where(**place | {"step": step})
                self.ranks.agree(over_budget(budget, budget + excess, where) if excess else None)
            sums = self.ranks.sum([len(piece), new, self.outbox.superseded])
            if sums[2]:
                return None
            done, computed = done + int(sums[0]), computed + int(sums[1])
            if self.ranks.rank == 0:
                pace = computed / (time.monotonic() - begun)
                metrics = {"rows_scored": float(done), "rows_per_second": pace}
                self.outbox.put(StepRecord(step=step, metrics=metrics))
        return computed

    def _score(self, flow: TrainedFlow, rows: RowsInOrder, piece: Piece, finished: Set[str], memory: StepMemory) -> int:
        """Have the scores of a piece kept; return how many rows had to be computed for it.

        Raises:
            StopRequestedError: the run must stop.
            DataError: the rows can't be read any more, or are none that the flow takes.
            SolverError: a row could not be carried to the base.
        """
        self.outbox.raise_if_stopped()
        if not len(piece):
            return 0
        retries = self.rank_run.retries
        memory.begin()
        with memory.phase("forward"):
            values, contexts = retries.while_unreachable(lambda: rows.read(piece.begin, piece.end))
            known = digest(values, contexts)
            if str(piece) in finished and retries.while_unreachable(lambda: self.pieces.holds(piece, known)):
                return 0
            scores = []
            for first in range(0, len(piece), flow.rows_at_once):
                self.outbox.raise_if_stopped()
                here = slice(first, first + flow.rows_at_once)
                scores.append(_log_prob(flow, values[here], None if contexts is None else contexts[here], rows.name))
        retries.while_full(lambda: self.pieces.write(piece, known, np.concatenate(scores)))
        return len(piece)

    def _write(self, pieces: Sequence[Piece]) -> _Moments:
        """Write the scores of all pieces to one file, a row group each; return their moments."""
        import pyarrow
        from pyarrow import parquet

        moments = _Moments()
        schema = pyarrow.schema([("log_prob", pyarrow.float64())])

        def write(file: IO[bytes]) -> None:
            nonlocal moments
            moments = _Moments()
            with parquet.ParquetWriter(file, schema) as writer:
                for piece in pieces:
                    self.outbox.raise_if_stopped()
                    scores = self.pieces.read(piece)
                    moments.add(scores)
                    writer.write_table(pyarrow.table({"log_prob": scores}, schema=schema))

        artifacts = self.rank_run.artifacts
        self.outbox.put(
            self.rank_run.retries.while_full(lambda: artifacts.stream(SCORES_FILE, str(MediaType.PARQUET), write))
        )
        # What is left goes with the job.
        with suppress(OSError):
            self.pieces.remove()
        return moments


def _log_prob(flow: TrainedFlow, rows: Rows, contexts: Rows | None, name: str) -> Rows:
    """Return the log-densities [n] of rows [n, D] that are solved together."""
    try:
        scores = flow.log_prob(rows.reshape(len(rows), *flow.event_shape), contexts)
    except ValueError as error:
        raise DataError(f"{name} was changed since it was checked: {error}", file=name) from error
    return scores.cpu().numpy()
