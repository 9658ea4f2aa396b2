"""A rank that torchrun starts: NCCL on the device (gloo on the CPU), and a training without Ray."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a rank told of its collectives and of its training."""
    folder = tmp_path_factory.mktemp("rank")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "1")
    command = (sys.executable, *torchrun, "-m", "tests.gpu.rank", device.type, folder)
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    answer: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return answer


def test_the_collectives_of_a_training_work_over_the_devices_backend(
    told: dict[str, Any], device: torch.device
) -> None:
    assert told["backend"] == ("nccl" if device.type == "cuda" else "gloo")
    assert told["sum"] == [0.0, 1.0, 2.0, 3.0]
    assert told["gathered"] == [{"rank": 0}]
    assert told["ddp_error"] < 1e-12


def test_a_rank_without_ray_trains_on_the_flow_cytometry_data(told: dict[str, Any]) -> None:
    assert told["state"] == "succeeded", told["message"]
    assert statistics.mean(told["loss"][-10:]) < statistics.mean(told["loss"][:10]) - 1
    assert math.isfinite(told["test_nll"])


def test_the_peaks_of_its_steps_are_within_a_tenth_of_the_jobs_plan(told: dict[str, Any], cuda: torch.device) -> None:
    assert len(told["device_peaks"]) == 100
    # The first step loads what libraries keep for themselves.
    off = [planned / found - 1 for planned, found in told["device_peaks"][1:]]
    assert max(map(abs, off)) <= 0.10, f"from {min(off):+.1%} to {max(off):+.1%}"
