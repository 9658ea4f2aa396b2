"""Runs one implementation in a process of its own: a line in, a training step, a line out.

``python -m benchmarks.worker PEER VARIANT PROBLEM`` with the problem pickled in a file. Commands are ``step``, and
``gradient FILE``, which also writes the gradient as npy. The answer is JSON: seconds, nfe, and memory in bytes: the
step's own peak above what was held before it, and the process's highest peak so far above what it held once the
implementation was imported (for one that compiles, its compiler's memory too).
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np


def high_water(reset: bool) -> int:
    """Return the process's high-water mark of resident memory in bytes; reset it first if asked to (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def trim() -> None:
    """Return free heap to the system, so that the next peak is above what is really held."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """Answer until the input ends."""
    peer, variant, file = sys.argv[1:]
    problem = pickle.loads(Path(file).read_bytes())
    if peer not in ("diffrax", "gradsolve"):
        import torch

        torch.set_num_threads(1)
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    trim()
    base = high_water(reset=True)
    step = module.make(problem, variant)
    highest = high_water(reset=False)
    for line in sys.stdin:
        command, *arguments = line.split()
        trim()
        before = high_water(reset=True)
        started = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - started
        peak = high_water(reset=False)
        highest = max(highest, peak)
        if command == "gradient":
            np.save(arguments[0], result.gradient)
        answer = {
            "seconds": seconds,
            "peak_bytes": result.peak_bytes or peak - before,
            "process_bytes": highest - base,
            "loss": result.loss,
            "nfe_forward": result.nfe_forward,
            "nfe_backward": result.nfe_backward,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
