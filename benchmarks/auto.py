"""What `gradient.kind: auto` costs beside the same choice named, and what microbatches cost (`make bench-auto`).

A budget that has room for everything makes `auto` keep all stages, as `symplectic` does by itself; the first two steps,
in which it measures, are left out. Trainings of each kind are run in turn, with one thread, and medians of all their
steps compared: of the processor's time, which other processes of the machine change least. The last rows are the same
batch in 2 and 4 parts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.toys import TimingOutbox, measure
from symadj.service.contract.records import AnyRecord, StepRecord
from symadj.service.contract.spec import JobSpec

SPEC: dict[str, Any] = {
    "data": {"kind": "builtin", "name": "flow_cytometry", "batch_size": 500},
    "flow": {"blocks": 2, "field": {"hidden": [64, 64]}},
    "solver": {"kind": "fixed", "method": "rk4", "steps": 10},
    "evaluation": None,
}
# Steps until the choice is made, and until all buffers have their size.
WARM = 5


class StepOutbox(TimingOutbox):
    """Notes the processor's time of each step, too."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[float] = []
        self._last = time.process_time()

    def put(self, record: AnyRecord) -> None:
        super().put(record)
        if isinstance(record, StepRecord) and "step_seconds" in record.metrics:
            now = time.process_time()
            self.steps.append(now - self._last)
            self._last = now


def main() -> None:
    """Print a line for every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stop = {"stop": {"kind": "steps", "max_steps": WARM + options.steps}}
    kinds: dict[str, dict[str, Any]] = {
        "symplectic": {"gradient": {"kind": "symplectic"}},
        "auto, a budget of 64 GiB": {"resources": {"kind": "cpu", "memory_budget": "64GiB"}},
        "symplectic, in 2 parts": {"resources": {"kind": "cpu", "microbatch_size": 250}},
        "symplectic, in 4 parts": {"resources": {"kind": "cpu", "microbatch_size": 125}},
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, changes in kinds.items():
            outbox = StepOutbox()
            measure(JobSpec.model_validate(SPEC | stop | changes), outbox=outbox)
            taken[name] += outbox.steps[WARM:]
    print("gradient | a step, ms of one core | ratio\n--- | --- | ---")
    named = statistics.median(taken["symplectic"])
    for name, steps in taken.items():
        print(f"{name} | {1000 * statistics.median(steps):.1f} | {statistics.median(steps) / named:.3f}")


if __name__ == "__main__":
    main()
