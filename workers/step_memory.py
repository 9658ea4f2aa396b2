"""The memory of one training step, phase by phase; or of what follows a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from symadj.service.contract.records import EventRecord, MemoryRecord, Phase
from symadj.workers.delivery.outbox import Outbox
from symadj_core.memory import PeakMeter, Window

__all__ = ["StepMemory"]


# Of short steps, as many from the first on, and one in so many of all: what was given back before a window is faulted
# in again, which made a step of flow matching of 18 ms take 24.
_FIRST_MEASURED = 8
_ONE_IN = 64


class StepMemory:
    """Measures the phases of a step and reports them.

    Args:
        device: of the training.
        rank: this process's.
        budget: of a worker, bytes; a peak above it is reported once, as an event.
    """

    def __init__(self, device: torch.device, rank: int, budget: int | None) -> None:
        self._meter = PeakMeter(device)
        self._rank, self._budget = rank, budget
        self._windows: dict[Phase, Window] = {}
        self._over_budget = False
        self._short_steps = 0
        self._measures = True

    def begin(self, *, short: bool = False) -> None:
        """Forget the step before.

        Args:
            short: the step takes hardly longer than measuring it, and needs what others like it need: not all of them
                are measured.
        """
        self._windows.clear()
        self._measures = not short or self._short_steps < _FIRST_MEASURED or self._short_steps % _ONE_IN == 0
        self._short_steps += short

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Measure what runs within; a phase that comes several times, as for microbatches, has its highest peaks.

        Of a step that is not measured it does nothing: nothing is known of that step, and nothing reported.
        """
        if not self._measures:
            yield
            return
        before = self._windows.get(phase)
        try:
            with self._meter.window() as window:
                # Stored at once, so that a failure within the phase can report the phases before it.
                self._windows[phase] = window
                yield
        finally:
            if before is not None:
                self._windows[phase] = _together(before, window)

    def report(self, step: int, outbox: Outbox) -> None:
        """Report the memory of the step, or of what follows it, and once when it exceeds the budget."""
        idle = next(iter(self._windows.values()), None)
        if idle is None:
            return
        for phase, window in self._windows.items():
            outbox.put(
                MemoryRecord(
                    step=step,
                    rank=self._rank,
                    phase=phase,
                    host_idle_bytes=idle.host_start_bytes,
                    host_peak_bytes=window.host_peak_bytes,
                    device_idle_bytes=idle.device_start_bytes,
                    device_peak_bytes=window.device_peak_bytes,
                )
            )
        peak = self._host_peak()
        if self._budget is not None and peak > self._budget and not self._over_budget:
            self._over_budget = True
            outbox.put(
                EventRecord(
                    name="memory_budget_exceeded",
                    message=f"rank {self._rank} held {peak} bytes in step {step}, more than its memory_budget",
                    data={
                        "rank": self._rank,
                        "step": step,
                        "peak_bytes": peak,
                        "memory_budget_bytes": self._budget,
                    },
                )
            )

    def peak(self) -> int | None:
        """Return the highest bytes of the step so far: of the device, or of the host where there is none; None: not
        known."""
        windows = self._windows.values()
        of_device = [w.device_peak_bytes for w in windows if w.device_peak_bytes is not None]
        return max(of_device, default=None) if of_device else (self._host_peak() or None)

    def excess(self) -> int:
        """Return how many bytes the host's peak of the step so far is above the budget; 0 without a budget."""
        return 0 if self._budget is None else max(0, self._host_peak() - self._budget)

    def idle_fits(self) -> bool:
        """Return whether the step began within the budget, so that a smaller one might stay there."""
        return self._budget is None or (self._windows["forward"].host_start_bytes or 0) < self._budget

    def above_idle(self) -> int | None:
        """Return the step's peak above what it began with: of the device, or of the host where there is none.

        None: not known.
        """
        if not self._windows:
            return None
        idle, windows = self._windows["forward"], self._windows.values()
        if idle.device_start_bytes is not None:
            peaks = [w.device_peak_bytes for w in windows if w.device_peak_bytes is not None]
            return max(peaks) - idle.device_start_bytes
        if idle.host_start_bytes is None:
            return None
        return max(w.host_peak_bytes for w in windows if w.host_peak_bytes is not None) - idle.host_start_bytes

    def _host_peak(self) -> int:
        return max((window.host_peak_bytes or 0 for window in self._windows.values()), default=0)

    def known(self) -> dict[str, Any]:
        """Return the measurements of the step so far, as JSON values."""
        return {
            name: {
                "host_start_bytes": window.host_start_bytes,
                "host_peak_bytes": window.host_peak_bytes,
                "device_start_bytes": window.device_start_bytes,
                "device_peak_bytes": window.device_peak_bytes,
            }
            for name, window in self._windows.items()
        }


def _together(first: Window, second: Window) -> Window:
    """Return one window for two of the same phase."""
    return Window(
        first.host_start_bytes,
        _higher(first.host_peak_bytes, second.host_peak_bytes),
        first.device_start_bytes,
        _higher(first.device_peak_bytes, second.device_peak_bytes),
    )


def _higher(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else max(first, second)
