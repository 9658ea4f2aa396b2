"""Time and memory of a CNF training step: all gradients of symadj_core beside its peers.

``python -m benchmarks.core [--size large] [--rounds 7] [--only WORD ...]``. Every implementation runs in a process of
its own on one core; one step of each in turn, so that a slow moment of the machine meets them all; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problem import SIZES, Problem
from benchmarks.result import HEAD, Result
from benchmarks.table import table

CONTENDERS = [
    ("symadj", "symplectic"),
    ("symadj", "symplectic, error of y and log-det"),
    ("symadj", "symplectic, field.compile()"),
    ("symadj", "symplectic, keep steps"),
    ("symadj", "aca"),
    ("symadj", "onecheckpoint"),
    ("symadj", "backprop"),
    ("symadj", "adjoint"),
    ("symadj", "odeint_symplectic_adjoint, in one tensor"),
    ("symadj", "odeint_symplectic_adjoint, in one tensor, field.compile()"),
    ("torchdiffeq", "odeint, in one tensor"),
    ("torchdiffeq", "odeint_adjoint, in one tensor"),
    ("torchdiffeq", "odeint"),
    ("torchdiffeq", "odeint_adjoint"),
    ("torchode", "AutoDiffAdjoint"),
    ("zuko", "odeint"),
    ("diffrax", "RecursiveCheckpointAdjoint, jit"),
    ("diffrax", "recorded steps, jit"),
    ("gradsolve", "record and replay, float64"),
]
WARM_UP = 2


@dataclass
class Contender:
    """One implementation in its process."""

    peer: str
    variant: str
    process: subprocess.Popen[str]
    answers: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def start(peer: str, variant: str, problem: Path) -> Contender:
        """Start it on the last core, with one thread."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        core = max(os.sched_getaffinity(0))
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", peer, variant, str(problem)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads | {"JAX_PLATFORMS": "cpu"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        return Contender(peer, variant, process)

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.peer} {self.variant} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def median(self, name: str) -> float:
        """Return the median of a figure over the rounds."""
        return statistics.median(answer[name] for answer in self.answers)


def run(size: str, rounds: int, only: list[str]) -> None:
    """Measure one size and print its table."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "problem.pickle")
        file.write_bytes(pickle.dumps(Problem.of(SIZES[size])))
        contenders = [
            Contender.start(peer, variant, file)
            for peer, variant in CONTENDERS
            if not only or any(word in f"{peer} {variant}" for word in only)
        ]
        gradients = {}
        for contender in contenders:
            target = Path(folder, f"{len(gradients)}.npy")
            contender.ask(f"gradient {target}")
            gradients[contender.peer, contender.variant] = np.load(target)
            for _ in range(WARM_UP):
                contender.ask("step")
        for _ in range(rounds):
            for contender in contenders:
                contender.answers.append(contender.ask("step"))
        for contender in contenders:
            assert contender.process.stdin is not None
            contender.process.stdin.close()
            contender.process.wait()
    show(size, contenders, gradients)


def show(size: str, contenders: list[Contender], gradients: dict[tuple[str, str], Any]) -> None:
    """Print a table: seconds, peak memory, uses of the field, distance of the gradient from the first contender's."""
    shape = SIZES[size]
    print(
        f"\n{size}: D {shape.dim}, hidden {shape.hidden}, {shape.blocks} blocks, batch {shape.batch}; one core, medians"
    )
    head = ("implementation", "seconds", "ratio", "step's peak MiB", "process's", *HEAD)
    first = contenders[0]
    rows = []
    for contender in contenders:
        answer = contender.answers[-1]
        gradient = gradients[contender.peer, contender.variant]
        result = Result(answer["loss"], gradient, answer["nfe_forward"], answer["nfe_backward"])
        seconds, peak = contender.median("seconds"), contender.median("peak_bytes")
        rows.append(
            (
                f"{contender.peer} {contender.variant}",
                f"{seconds:.3f}",
                f"{seconds / first.median('seconds'):.2f}",
                f"{peak / 2**20:.1f}",
                f"{answer['process_bytes'] / 2**20:.0f}",
                *result.cells(gradients[first.peer, first.variant]),
            )
        )
    print(*table(head, rows), sep="\n", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[], help="contenders whose name has one of these words")
    arguments = parser.parse_args()
    for size in SIZES if arguments.size == "all" else [arguments.size]:
        run(size, arguments.rounds, arguments.only)


if __name__ == "__main__":
    main()
