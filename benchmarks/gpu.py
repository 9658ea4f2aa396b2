"""Time and memory of a CNF training step on a CUDA device: symadj_core beside torchdiffeq, in one process.

Two tables a size: with adaptive steps, and with fixed ones, which a CUDA graph can take whole.

``python -m benchmarks.gpu [--size large] [--rounds 15] [--only WORD ...] [--device cpu]``. One step of each in turn, so
that a slow moment of the device meets them all; medians, by CUDA's events. "Peak" is the allocator's above what was
held before the step, which ends with the loss and the whole gradient on the host; a CUDA graph holds its memory from
its capture on, so that nothing can be said of its steps. On the CPU, which proves the script
where there is no device, time is the clock's and memory that of live tensors, in a step of its own.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from benchmarks.problem import SIZES, Problem
from benchmarks.result import HEAD, Result
from benchmarks.table import table
from symadj_core.memory import LiveTensorMeter, PeakMeter

ADAPTIVE = [
    ("torchdiffeq", "odeint"),
    ("torchdiffeq", "odeint_adjoint"),
    ("symadj", "symplectic"),
    ("symadj", "symplectic, error of y and log-det"),
    ("symadj", "symplectic, field.compile()"),
    ("symadj", "symplectic, keep steps"),
    ("symadj", "aca"),
    ("symadj", "onecheckpoint"),
    ("symadj", "backprop"),
    ("symadj", "adjoint"),
]
FIXED = [
    ("torchdiffeq", "odeint, fixed steps"),
    ("torchdiffeq", "odeint_adjoint, fixed steps"),
    ("symadj", "symplectic, fixed steps"),
    ("symadj", "symplectic, fixed steps, field.compile()"),
    ("symadj", "symplectic, fixed steps, CUDA graph"),
    ("symadj", "symplectic, fixed steps, field.compile(), CUDA graph"),
]
WARM_UP = 3


@dataclass
class Contender:
    """One implementation and what was measured of it."""

    name: str
    step: Callable[[], Result]
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


@contextmanager
def timed(seconds: list[float], device: torch.device) -> Iterator[None]:
    """Add how long the device works on what is within."""
    if device.type == "cpu":
        began = time.perf_counter()
        yield
        seconds.append(time.perf_counter() - began)
        return
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    yield
    end.record()
    end.synchronize()
    seconds.append(begin.elapsed_time(end) / 1000)


def peak_of(step: Callable[[], object], device: torch.device) -> int:
    """Return a step's peak above what was held before it, bytes: of the allocator, or on the CPU of live tensors."""
    if device.type == "cpu":
        with LiveTensorMeter() as meter:
            step()
        return meter.peak_bytes
    with PeakMeter(device).window() as window:
        step()
    assert window.device_peak_bytes is not None
    assert window.device_start_bytes is not None
    return window.device_peak_bytes - window.device_start_bytes


def run(size: str, peers: list[tuple[str, str]], rounds: int, device: torch.device) -> None:
    """Measure one size and print its table."""
    problem = Problem.of(SIZES[size])
    with device:
        contenders = [
            Contender(f"{peer} {variant}", importlib.import_module(f"benchmarks.peers.{peer}").make(problem, variant))
            for peer, variant in peers
        ]
    # Not within the default device, which costs every call of torch's something.
    results = []
    for contender in contenders:
        for _ in range(WARM_UP):
            result = contender.step()
        results.append(result)
        contender.peak_bytes = peak_of(contender.step, device)
    for _ in range(rounds):
        for contender in contenders:
            with timed(contender.seconds, device):
                contender.step()
    show(size, contenders, results, device)


def show(size: str, contenders: list[Contender], results: list[Result], device: torch.device) -> None:
    """Print the table: ratios are to the first contender, as is the distance of the gradient."""
    shape, first, reference = SIZES[size], contenders[0], results[0].gradient
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU, not a GPU"
    print(
        f"\n{size} on {where}, torch {torch.__version__}: D {shape.dim}, hidden {shape.hidden}, {shape.blocks} blocks, "
        f"batch {shape.batch}; medians of {len(first.seconds)}"
    )
    head = ("implementation", "ms", "ratio", "peak MiB", "ratio", *HEAD)
    rows = []
    for contender, result in zip(contenders, results, strict=True):
        peak = f"{contender.peak_bytes / 2**20:.1f}", f"{contender.peak_bytes / first.peak_bytes:.2f}"
        rows.append(
            (
                contender.name,
                f"{contender.median * 1000:.2f}",
                f"{contender.median / first.median:.2f}",
                *(("-", "-") if "CUDA graph" in contender.name else peak),
                *result.cells(reference),
            )
        )
    print(*table(head, rows), sep="\n", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=[], help="contenders whose name has one of these words")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    arguments = parser.parse_args()
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing is measured")
        return
    if arguments.device.type == "cpu":
        torch.set_num_threads(1)
    for size in SIZES if arguments.size == "all" else [arguments.size]:
        for contenders in (ADAPTIVE, FIXED):
            names = [(peer, variant, f"{peer} {variant}") for peer, variant in contenders]
            peers = [
                (peer, variant)
                for peer, variant, name in names
                if (arguments.device.type == "cuda" or "CUDA" not in name)
                and (not arguments.only or any(word in name for word in arguments.only))
            ]
            if peers:
                run(size, peers, arguments.rounds, arguments.device)


if __name__ == "__main__":
    main()
