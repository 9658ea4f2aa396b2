"""The training loop of one rank.

A step: this rank's rows of the batch, forward, backward, one exchange in which all ranks learn how it went on each
and whether to stop, the average of the gradients, and the optimiser's step. What a rank's own work raises is caught
and exchanged, so that all ranks end at the same step and none waits for one that has given up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import torch

from service.records import EventRecord, MemoryRecord, Phase, StepRecord
from service.spec import JobSpec, StopAfterMinutes, StopAfterSteps
from symadj_core.flows import Flow
from symadj_core.memory import PeakMeter, Window
from workers.data import BatchOrder, PreparedData
from workers.diagnosis import diagnose, diverged
from workers.flow import validation_flow
from workers.history import History
from workers.likelihood import HeldOut, piece_rows, rows_on_device
from workers.optimisation import build_optimizer, learning_rate
from workers.ranks import DataParallel, Ranks
from workers.reasons import Failure
from workers.telemetry import Outbox

__all__ = ["Ending", "Trained", "train"]

Ending = Literal["finished", "cancelled", "superseded"]


@dataclass(frozen=True)
class Trained:
    """How training ended.

    Attributes:
        ending: what ended it.
        steps: optimiser steps done.
        seconds: of wall time, validation included.
        history: what was seen on the way; complete on rank 0 only.
    """

    ending: Ending
    steps: int
    seconds: float
    history: History


@dataclass(frozen=True)
class _Totals:
    """What the ranks tell each other once a step, summed over them."""

    loss: float
    nfe_forward: float
    nfe_backward: float
    accepted: float
    rejected: float
    failed: float
    cancel: float
    superseded: float
    seconds: float  # rank 0's alone


def train(spec: JobSpec, flow: Flow, data: PreparedData, ranks: Ranks, outbox: Outbox) -> Trained:
    """Train ``flow`` in place on this rank's share of ``data``; all ranks call it.

    Raises:
        AttemptFailedError: on all ranks, when one of them could not go on.
        PeerLostError: a rank died.
        TelemetryError: the API refuses the records.
    """
    return _Training(spec, flow, data, ranks, outbox).run()


class _Training:
    def __init__(self, spec: JobSpec, flow: Flow, data: PreparedData, ranks: Ranks, outbox: Outbox) -> None:
        self.spec, self.flow, self.ranks, self.outbox = spec, flow, ranks, outbox
        self.optimizer = build_optimizer(spec.optimizer, flow.parameters())
        self.batches = BatchOrder(len(data.training), spec.data.batch_size, spec.seed)
        self.validated, _ = validation_flow(flow, spec)
        self.validation: HeldOut | None = None
        self.validation_rows = 0
        # The device may have no room for the data; DDP's own start is a collective and comes after.
        ranks.together(lambda: self._load(data), phase="setup")
        self.parallel = DataParallel(flow, ranks)
        self.meter = PeakMeter(ranks.device)
        self.windows: dict[Phase, Window] = {}
        self.over_budget = False
        self.history = History()
        self.began = time.perf_counter()

    def _load(self, data: PreparedData) -> None:
        """Bring this rank's rows to its device."""
        flow, ranks, batch_size, evaluation = self.flow, self.ranks, self.spec.data.batch_size, self.spec.evaluation
        self.rows, self.index = rows_on_device(data.training, flow, ranks.device)
        if evaluation is not None and evaluation.validate_every_steps is not None:
            part = data.validation.head(evaluation.validation_rows)
            self.validation_rows = len(part)
            rows, index = rows_on_device(part.share(ranks.rank, ranks.size), flow, ranks.device)
            self.validation = HeldOut(rows, index, piece_rows(batch_size // ranks.size, data.dim), self.spec.seed)

    def run(self) -> Trained:
        step = 0
        while True:
            ending = self._step(step + 1)
            if ending in ("cancelled", "superseded"):
                # The step was not completed: every rank saw the wish before the optimiser's turn.
                return self._trained(ending, step)
            step += 1
            if ending == "finished":
                return self._trained(ending, step)

    def _trained(self, ending: Ending, steps: int) -> Trained:
        return Trained(ending, steps, time.perf_counter() - self.began, self.history)

    def _step(self, step: int) -> Ending | None:
        began = time.perf_counter()
        self.windows.clear()
        rate = learning_rate(self.spec.optimizer, self.spec.stop, step)
        loss, failure = self._forward_and_backward(step)
        totals = self._exchange(loss, failure)
        if totals.failed:
            self.ranks.fail_together(failure)
        if totals.superseded:
            return "superseded"
        if totals.cancel:
            return "cancelled"
        gradient_norm = self._update(step, rate)
        size = self.ranks.size
        seconds = time.perf_counter() - began
        metrics = {
            "loss": totals.loss / size,
            "learning_rate": rate,
            "grad_norm": gradient_norm,
            "nfe_forward": totals.nfe_forward / size,
            "nfe_backward": totals.nfe_backward / size,
            "steps_accepted": totals.accepted / size,
            "steps_rejected": totals.rejected / size,
            "step_seconds": seconds,
            "examples_per_second": self.spec.data.batch_size / seconds,
        }
        self._report_memory(step)
        ending = self._ending(step, totals.seconds)
        if self._validates_after(step, ending):
            metrics["validation_nll"] = self._validate(step)
        if self.ranks.rank == 0:
            self.outbox.put(StepRecord(time=datetime.now(UTC), step=step, metrics=metrics))
            self._remember(step, metrics)
        return ending

    def _forward_and_backward(self, step: int) -> tuple[float, Failure | None]:
        """Return this rank's loss, and why it could not be computed or differentiated."""
        value = math.nan
        phase: Phase = "forward"
        try:
            self.optimizer.zero_grad()
            place = torch.from_numpy(self.batches.rows_of_step(step - 1, self.ranks.rank, self.ranks.size))
            place = place.to(self.ranks.device)
            with self._phase(phase):
                log_prob = self.parallel.model(
                    self.rows[place], seed=self.spec.seed, step=step, sample_index=self.index[place]
                )
                loss = -log_prob.mean()
                value = float(loss.detach())
            if not math.isfinite(value):
                return value, diverged(f"the loss is {value} at step {step}", self._where(step, phase))
            phase = "backward"
            with self._phase(phase):
                loss.backward()
        except Exception as error:
            return value, diagnose(error, self._where(step, phase))
        return value, None

    def _exchange(self, loss: float, failure: Failure | None) -> _Totals:
        stats = self.flow.last_stats
        first = self.ranks.rank == 0
        return _Totals(
            *self.ranks.sum(
                [
                    loss,
                    stats.nfe_forward,
                    stats.nfe_backward,
                    stats.accepted,
                    stats.rejected,
                    failure is not None,
                    self.outbox.cancel,
                    self.outbox.superseded,
                    time.perf_counter() - self.began if first else 0.0,
                ]
            )
        )

    def _update(self, step: int, rate: float) -> float:
        """Average the gradients, clip them, do the optimiser's step; return their norm before clipping."""
        parameters = list(self.flow.parameters())
        failure = None
        norm = math.nan
        with self._phase("optimizer"):
            self.parallel.average_gradients()
            try:
                gradients = [p.grad for p in parameters if p.grad is not None]
                total = torch.nn.utils.get_total_norm(gradients)
                norm = float(total)
                # All ranks have the same gradients now, and come to the same answer.
                if math.isfinite(norm):
                    if self.spec.optimizer.clip_norm is not None:
                        torch.nn.utils.clip_grads_with_norm_(parameters, self.spec.optimizer.clip_norm, total)
                    for group in self.optimizer.param_groups:
                        group["lr"] = rate
                    self.optimizer.step()
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

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        with self.meter.window() as window:
            # Known at once, so that a failure within the phase finds the figures of the phases before it.
            self.windows[phase] = window
            yield

    def _report_memory(self, step: int) -> None:
        idle = self.windows["forward"]
        now = datetime.now(UTC)
        for phase, window in self.windows.items():
            self.outbox.put(
                MemoryRecord(
                    time=now,
                    step=step,
                    rank=self.ranks.rank,
                    phase=phase,
                    host_idle_bytes=idle.host_start_bytes,
                    host_peak_bytes=window.host_peak_bytes,
                    device_idle_bytes=idle.device_start_bytes,
                    device_peak_bytes=window.device_peak_bytes,
                )
            )
        budget = self.spec.resources.memory_budget
        peak = max((w.host_peak_bytes or 0 for w in self.windows.values()), default=0)
        if budget is not None and peak > budget and not self.over_budget:
            self.over_budget = True
            self.outbox.put(
                EventRecord(
                    time=now,
                    name="memory_budget_exceeded",
                    message=f"rank {self.ranks.rank} held {peak} bytes in step {step}, more than its memory_budget",
                    data={
                        "rank": self.ranks.rank,
                        "step": step,
                        "peak_bytes": peak,
                        "memory_budget_bytes": int(budget),
                    },
                )
            )

    def _remember(self, step: int, metrics: dict[str, float]) -> None:
        self.history.add(
            metrics["loss"], metrics["nfe_forward"], metrics["nfe_backward"], _peak_above_idle(self.windows)
        )
        if "validation_nll" in metrics:
            self.history.validation.append((step, metrics["validation_nll"]))

    def _where(self, step: int, phase: Phase) -> dict[str, object]:
        return self.ranks.where(
            step=step,
            phase=phase,
            epoch=(step - 1) // self.batches.batches_per_epoch,
            batch=(step - 1) % self.batches.batches_per_epoch,
            memory={
                name: {
                    "host_start_bytes": window.host_start_bytes,
                    "host_peak_bytes": window.host_peak_bytes,
                    "device_start_bytes": window.device_start_bytes,
                    "device_peak_bytes": window.device_peak_bytes,
                }
                for name, window in self.windows.items()
            },
        )


def _peak_above_idle(windows: dict[Phase, Window]) -> int | None:
    """Return the step's peak above what was held at its start: of the device, or of the host where there is none."""
    idle = windows["forward"]
    if idle.device_start_bytes is not None:
        peaks = [w.device_peak_bytes for w in windows.values() if w.device_peak_bytes is not None]
        return max(peaks) - idle.device_start_bytes
    if idle.host_start_bytes is None:
        return None
    return max(w.host_peak_bytes for w in windows.values() if w.host_peak_bytes is not None) - idle.host_start_bytes
