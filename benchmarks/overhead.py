"""How much of a training step is not the field: the solver, the controller, autograd's bookkeeping; and telemetry.

``python -m benchmarks.overhead``. Every use of the field, forward and pulled back, is timed within the step, on one
thread; overhead is the rest. Medians over steps.

The second table is what it takes to measure a step's memory by its three phases: flow matching and likelihood of the
recipe of flow_cytometry, without measuring, measuring every step, and as a run does. Blocks of 64 steps of each
alternate (of 4 of the likelihood); processor time, the kernel's included, medians over the blocks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.peers import symadj
from benchmarks.problem import SIZES, Problem
from symadj.service.contract.spec import JobSpec
from symadj.workers.data import DataRoots, load_data
from symadj.workers.model.build import build_flow
from symadj.workers.model.likelihood import on_device
from symadj.workers.step_memory import StepMemory
from symadj.workers.training.objective import Objective, microbatches
from symadj.workers.training.schedules import pretraining_steps
from symadj_core.gradients.pullback import Pullback
from symadj_core.solvers.system import System

VARIANTS = ("symplectic", "symplectic, keep steps")
WARM_UP = 3
RECIPE = Path(__file__).parent.parent / "recipes" / "flow_cytometry.yaml"
CPU = torch.device("cpu")


class _Clock:
    """Seconds spent within the functions that it wraps; calls within calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            self._depth += 1
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - started

        return timed


class _Training:
    """Steps of the recipe on one worker, with the memory of none, of every or of some of them measured."""

    def __init__(self) -> None:
        self.spec = JobSpec.model_validate(yaml.safe_load(RECIPE.read_text()))
        data = load_data(self.spec.data, DataRoots(()))
        self._flow = build_flow(self.spec, data.dim)
        self._batches = data.batches(self.spec.batch_size, self.spec.seed)
        self._objective = Objective(self.spec, self._flow)
        self._optimizer = torch.optim.Adam(self._flow.parameters(), lr=1e-3)

    def seconds(self, first: int, steps: int, memory: StepMemory, *, short: bool) -> float:
        """Take steps; return the processor's seconds for one of them."""
        started = time.process_time()
        for step in range(first, first + steps):
            memory.begin(short=short)
            self._optimizer.zero_grad()
            rows = on_device(self._batches.batch(step), self._flow, CPU)
            (whole,) = microbatches(self.spec, rows, step, 0, self.spec.batch_size)
            with memory.phase("forward"):
                loss, _ = self._objective(whole, step)
                float(loss.detach())
            with memory.phase("backward"):
                loss.backward()
            with memory.phase("optimizer"):
                self._optimizer.step()
        return (time.process_time() - started) / steps


class _Unmeasured(StepMemory):
    def begin(self, *, short: bool = False) -> None:
        self._measures = False


def _print_telemetry(rounds: int) -> None:
    print("\n| step | processor, ms | with the memory of every step | as in a run |\n| --- | --- | --- | --- |")
    training = _Training()
    matched = pretraining_steps(training.spec)
    for name, first, steps in (("flow matching", 1, 64), ("likelihood", matched + 1, 4)):
        short = first <= matched
        none, every, some = _Unmeasured(CPU, 0, None), StepMemory(CPU, 0, None), StepMemory(CPU, 0, None)
        found: dict[str, list[float]] = {"none": [], "every": [], "some": []}
        # Beyond the first steps of a run, all of which are measured.
        training.seconds(first, steps, some, short=short)
        for _ in range(rounds):
            found["none"].append(training.seconds(first, steps, none, short=short))
            found["every"].append(training.seconds(first, steps, every, short=False))
            found["some"].append(training.seconds(first, steps, some, short=short))
        base = statistics.median(found["none"])
        every_more, some_more = (
            statistics.median(m / n for m, n in zip(found[way], found["none"], strict=True)) - 1
            for way in ("every", "some")
        )
        print(f"| {name} | {1e3 * base:.2f} | {every_more:+.1%} | {some_more:+.1%} |", flush=True)


def main() -> None:
    """Measure both sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    clock = _Clock()
    # A use of the field is timed where the solver asks for it.
    System._evaluate = clock.wrap(System._evaluate)  # type: ignore[method-assign]
    Pullback.through_stage = clock.wrap(Pullback.through_stage)  # type: ignore[method-assign]
    print("| size | gradient | step, ms | field, ms | overhead |\n| --- | --- | --- | --- | --- |")
    for size in SIZES:
        for variant in VARIANTS:
            step = symadj.make(Problem.of(SIZES[size]), variant)
            totals, fields = [], []
            for round_number in range(WARM_UP + rounds):
                clock.seconds = 0.0
                started = time.perf_counter()
                step()
                if round_number >= WARM_UP:
                    totals.append(time.perf_counter() - started)
                    fields.append(clock.seconds)
            total, inside = statistics.median(totals), statistics.median(fields)
            overhead = statistics.median((t - f) / t for t, f in zip(totals, fields, strict=True))
            print(f"| {size} | {variant} | {1e3 * total:.1f} | {1e3 * inside:.1f} | {overhead:.1%} |", flush=True)
    _print_telemetry(rounds)


if __name__ == "__main__":
    main()
