"""What it takes to choose the values of a sweep's next trial in a process of its own, by every sampler of Optuna's.

``python -m benchmarks.samplers [--runs 5]``. A process is started for each question, as the dispatcher does for ``gp``,
and its CPU time and largest resident memory are read when it has ended; medians of interleaved runs, beside ``random``
in the same run. The dispatcher asks the others itself: what they take beside ``random`` is that of a first question.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.table import table
from symadj.service.contract.spec.search import MOST_GP_TRIALS, Sampler
from symadj.service.contract.spec.section import kinds_of
from symadj.service.contract.spec.sweep import SweepSpec

# How many trials have succeeded, and how many are open.
STUDIES = [(10, 1), (100, 1), (MOST_GP_TRIALS - 65, 64)]
PARAMETERS = {
    "optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "solver.rtol": {"low": 1e-6, "high": 1e-3, "log": True},
    "solver.atol": {"low": 1e-6, "high": 1e-3, "log": True},
    "data.batch_size": {"low": 64, "high": 512},
    "flow.blocks": {"low": 1, "high": 4},
    "flow.field.hidden": {"choices": [[16], [32], [32, 32], [64, 64]]},
}


def question(kind: str, succeeded: int, still_open: int) -> bytes:
    """Return what a process is asked: a spec, and trials with values at random."""
    base = {"data": {"kind": "toy", "name": "moons"}, "evaluation": {"validate_every_steps": 100}}
    sampler: dict[str, Any] = {"kind": kind}
    if "startup_trials" in kinds_of(Sampler)[kind].model_fields:
        sampler["startup_trials"] = 1
    spec = {"base": base, "parameters": PARAMETERS, "sampler": sampler, "trials": MOST_GP_TRIALS}
    stored = SweepSpec.model_validate(spec).stored()
    draws = random.Random(0)
    trials = [
        {
            "number": number,
            "state": "succeeded" if number < succeeded else "open",
            "value": draws.random() if number < succeeded else None,
            "parameters": {path: _drawn(draws, given) for path, given in PARAMETERS.items()},
            "reports": [],
            "attrs": {},
        }
        for number in range(succeeded + still_open)
    ]
    return json.dumps({"spec": stored, "trials": trials}).encode()


def _drawn(draws: random.Random, given: dict[str, Any]) -> Any:
    if "choices" in given:
        return draws.choice(given["choices"])
    low, high = given["low"], given["high"]
    return draws.randint(low, high) if isinstance(low, int) else draws.uniform(low, high)


def ask(asked: bytes) -> tuple[float, float]:
    """Return the seconds of CPU and the MiB that a process takes to answer."""
    with tempfile.TemporaryFile() as written:
        written.write(asked)
        written.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "symadj.service.dispatcher.suggestion"],
            stdin=written,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the process ended with status {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each process")
    runs = parser.parse_args().runs
    kinds = [kind for kind in kinds_of(Sampler) if kind != "grid"]
    cases = list(itertools.product(STUDIES, kinds))
    took: dict[tuple[tuple[int, int], str], list[tuple[float, float]]] = {case: [] for case in cases}
    for _ in range(runs):
        for (succeeded, still_open), kind in cases:
            took[(succeeded, still_open), kind].append(ask(question(kind, succeeded, still_open)))
    medians = {case: [statistics.median(column) for column in zip(*all_, strict=True)] for case, all_ in took.items()}
    rows = []
    for (study, kind), (seconds, mib) in medians.items():
        of_random, mib_of_random = medians[study, "random"]
        rows.append(
            (*study, kind, f"{seconds:.1f}", f"{seconds / of_random:.1f}", f"{mib:.0f}", f"{mib / mib_of_random:.1f}")
        )
    head = ("succeeded", "open", "sampler", "CPU s", "of random's", "peak MiB", "of random's")
    for line in table(head, rows):
        print(line)


if __name__ == "__main__":
    main()
