"""What `gradient.kind: auto` costs beside the same choice named, and what microbatches cost (`make bench-auto`).

A budget that has room for everything makes `auto` keep all stages, as `symplectic` does by itself; the first two steps,
in which it measures, are left out. The trainings take a step each in turn, in another order every time, each in a
thread of its own while the others wait, and only the processor's time of that thread counts. What else the machine does
then changes neighbouring steps alike: the ratio is the median of those of steps of the same turn, and its spread is the
standard error of that median, by resampling the turns. The last rows are the same batch in 2 and 4 parts.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.toys import TimingOutbox, measure
from symadj.service.contract.records import AnyRecord, StepRecord
from symadj.service.contract.spec import JobSpec

SPEC: dict[str, Any] = {
    "data": {"kind": "builtin", "name": "flow_cytometry", "batch_size": 500},
    "flow": {"blocks": 2, "field": {"hidden": [64, 64]}},
    "solver": {"kind": "fixed", "method": "rk4", "steps": 10},
    "evaluation": None,
}
NAMED = "symplectic"
KINDS: dict[str, dict[str, Any]] = {
    NAMED: {"gradient": {"kind": "symplectic"}},
    "auto, a budget of 64 GiB": {"resources": {"kind": "cpu", "memory_budget": "64GiB"}},
    "symplectic, in 2 parts": {"resources": {"kind": "cpu", "microbatch_size": 250}},
    "symplectic, in 4 parts": {"resources": {"kind": "cpu", "microbatch_size": 125}},
}
# Steps until the choice is made, and until all buffers have their size.
WARM = 5
RESAMPLED = 1000


class Turns:
    """Lets one of several threads run at a time."""

    def __init__(self, threads: int, steps: int) -> None:
        rng = np.random.default_rng(0)
        self._order = [int(n) for _ in range(steps) for n in rng.permutation(threads)]
        self._changed = threading.Condition()

    def wait(self, thread: int) -> None:
        """Return when it is the thread's turn."""
        with self._changed:
            self._changed.wait_for(lambda: not self._order or self._order[0] == thread)

    def close(self) -> None:
        """Let all run: a training has ended, as all others have by then, or failed."""
        with self._changed:
            self._order.clear()
            self._changed.notify_all()

    def end(self) -> None:
        """Let the next one run."""
        with self._changed:
            self._order[:1] = []
            self._changed.notify_all()


class StepOutbox(TimingOutbox):
    """Notes the processor's time of each step, and gives the turn to another training after it."""

    def __init__(self, turns: Turns, thread: int) -> None:
        super().__init__()
        self.steps: list[float] = []
        self._turns, self._thread = turns, thread
        self._last = 0.0

    def put(self, record: AnyRecord) -> None:
        super().put(record)
        if isinstance(record, StepRecord) and "step_seconds" in record.metrics:
            self.steps.append(time.thread_time() - self._last)
            self._turns.end()
            self._turns.wait(self._thread)
            self._last = time.thread_time()


def times(steps: int) -> NDArray[np.float64]:
    """Return the processor's seconds of so many steps of each kind, [kinds, steps]."""
    turns = Turns(len(KINDS), WARM + steps)
    outboxes = [StepOutbox(turns, n) for n in range(len(KINDS))]
    stop = {"stop": {"kind": "steps", "max_steps": WARM + steps}}
    specs = [JobSpec.model_validate(SPEC | stop | changes) for changes in KINDS.values()]

    def train(n: int) -> None:
        turns.wait(n)
        try:
            measure(specs[n], outbox=outboxes[n])
        finally:
            turns.close()

    threads = [threading.Thread(target=train, args=(n,)) for n in range(len(KINDS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.array([outbox.steps[WARM:] for outbox in outboxes])


def main() -> None:
    """Print a line for every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = times(options.steps)
    ratios = found / found[0]
    drawn = np.random.default_rng(0).integers(0, options.steps, (RESAMPLED, options.steps))
    print("gradient | a step, ms of one core | ratio | spread\n--- | --- | --- | ---")
    for name, seconds, ratio in zip(KINDS, found, ratios, strict=True):
        spread = np.median(ratio[drawn], axis=1).std()
        print(f"{name} | {1000 * np.median(seconds):.1f} | {np.median(ratio):.3f} | {spread:.3f}")


if __name__ == "__main__":
    main()
