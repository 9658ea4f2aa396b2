"""How much of a training step is not the field: the solver, the controller, the sums, autograd's bookkeeping.

``python -m benchmarks.overhead``. Every use of the field, forward and pulled back, is timed within the step, on one
thread; overhead is the rest. Medians over steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers import symadj
from benchmarks.problem import SIZES, Problem
from symadj_core.gradients.pullback import Pullback
from symadj_core.solvers.system import System

VARIANTS = ("symplectic", "symplectic, keep steps")
WARM_UP = 3


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


if __name__ == "__main__":
    main()
