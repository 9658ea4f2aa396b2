"""What ``pretraining.context_ratio`` brings where every row has a context of its own: NLLs after flow matching alone.

``python -m benchmarks.pairing [--seeds 5] [--steps 2000] [--ratios 0.01 0.05]``. The data are two moons, turned by an
angle that is the context and uniform from 0 to pi. Without a ratio no samples are exchanged. Of each seed (of data,
weights and batches) the table has the difference from that, whose mean and standard error end the line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.toys import Measured, measure
from symadj.service.contract.spec import JobSpec

ROWS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.01, 0.05])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print("ratio | seed | test NLL | uses of the field in the test | processor seconds", flush=True)
        nlls: dict[float | None, list[float]] = {ratio: [] for ratio in (None, *options.ratios)}
        for seed in range(options.seeds):
            write_turned_moons(Path(folder) / "moons.npy", seed)
            for ratio, known in nlls.items():
                measured = trained(seed, options.steps, ratio, folder)
                nll = measured.result.test_nll
                assert nll is not None
                known.append(nll)
                nfe = measured.result.nfe_test
                print(f"{ratio} | {seed} | {nll:.4f} | {nfe:.0f} | {measured.seconds:.0f}", flush=True)
    for ratio, known in nlls.items():
        less = [one - plain for one, plain in zip(known, nlls[None], strict=True)]
        error = statistics.stdev(less) / len(less) ** 0.5
        print(f"{ratio}: mean {statistics.mean(known):.4f}, difference {statistics.mean(less):+.4f} +- {error:.4f}")


def write_turned_moons(file: Path, seed: int) -> None:
    """Write rows x, y, angle."""
    rng = np.random.default_rng(seed)
    along, turn = np.pi * rng.random((2, ROWS))
    upper = rng.integers(2, size=ROWS).astype(bool)
    x = np.where(upper, np.cos(along), 1 - np.cos(along)) - 0.5
    y = np.where(upper, np.sin(along), 0.5 - np.sin(along)) - 0.25
    turned = np.stack([np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y], 1)
    np.save(file, np.column_stack([turned + 0.1 * rng.standard_normal((ROWS, 2)), turn]))


def trained(seed: int, steps: int, ratio: float | None, folder: str) -> Measured:
    """Train by flow matching, and one step of the likelihood whose rate is too small to do anything."""
    document: dict[str, Any] = {
        "name": "pairing",
        "seed": seed,
        "data": {"kind": "file", "path": f"{folder}/moons.npy", "context_columns": ["x2"], "batch_size": 256},
        "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [64, 64], "activation": "silu"}},
        "solver": {"kind": "adaptive", "rtol": 1e-4, "atol": 1e-5},
        "pretraining": {
            "steps": steps,
            "learning_rate": 5e-3,
            "schedule": {"kind": "cosine", "warmup_steps": 20},
            "context_ratio": ratio,
        },
        "ema": {"decay": 0.995},
        "optimizer": {"learning_rate": 1e-12},
        "stop": {"max_steps": steps + 1},
        "evaluation": {
            "validate_every_steps": None,
            "tolerance_factor": 0.1,
            "mixture_components": 0,
            "inverse_rows": 0,
            "two_sample_rows": 0,
            "plots": False,
        },
    }
    return measure(JobSpec.model_validate(document), roots=(folder,))


if __name__ == "__main__":
    main()
