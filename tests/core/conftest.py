"""Fixtures of the core's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

# `make test-gpu` names another one.
DEVICE = torch.device(os.environ.get("SYMADJ_TEST_DEVICE", "cpu"))


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    """Let a test make its tensors on the device that is tested."""
    if DEVICE.type == "cpu":
        yield
        return
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with DEVICE:
        yield


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of one rank, joined by gloo, or by NCCL on a device of CUDA's.

    It ends after the test's own objects are gone: a DistributedDataParallel module that outlives its group can hang
    when it is freed.
    """
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
