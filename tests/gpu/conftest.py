"""Tests on a CUDA device: `make test-gpu`. Where there is none they are skipped, and say so.

SYMADJ_TEST_DEVICE=cpu lets the CPU stand in for the device, to prove all but what is of the device alone.
"""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

_NAMED = os.environ.get("SYMADJ_TEST_DEVICE")

if _NAMED is not None:
    # `make test-gpu` does not load tests/conftest.py, which needs the service. A device is slow at its first use.
    hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The device that is tested."""
    device = torch.device(_NAMED or "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device: the tests of the GPU part are skipped")
    return device


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device, for what only CUDA's have."""
    if device.type != "cuda":
        pytest.skip("only a CUDA device has this")
    return device
