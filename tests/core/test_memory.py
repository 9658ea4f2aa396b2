from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from symadj_core.memory import LiveTensorMeter, PeakMeter

MEGABYTE = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is Linux's")
def test_a_window_sees_a_peak_that_is_over_when_it_ends() -> None:
    meter = PeakMeter(torch.device("cpu"))
    with meter.window() as window:
        block = torch.ones(64 * MEGABYTE // 4)
        del block
    if window.host_start_bytes is None:
        pytest.skip("this kernel does not reset the mark")
    assert window.host_peak_bytes is not None
    assert abs(window.host_peak_bytes - window.host_start_bytes - 64 * MEGABYTE) < 4 * MEGABYTE
    with meter.window() as after:
        pass
    assert after.host_peak_bytes is not None
    assert after.host_peak_bytes < window.host_peak_bytes - 48 * MEGABYTE


def test_the_peak_is_read_when_the_window_ends_by_an_error_too() -> None:
    meter = PeakMeter(torch.device("cpu"))
    with pytest.raises(KeyError), meter.window() as window:
        raise KeyError
    assert (window.host_peak_bytes is None) == (window.host_start_bytes is None)


def test_a_processor_without_accelerator_has_no_device_figure() -> None:
    with PeakMeter(torch.device("cpu")).window() as window:
        pass
    assert window.device_start_bytes is None
    assert window.device_peak_bytes is None


def test_live_tensors_are_counted_once_and_until_they_are_freed() -> None:
    before = torch.ones(1000)
    with LiveTensorMeter() as meter:
        x = before + 1
        view = x.view(10, 100)
        y = x * 2
        assert meter.live_bytes == 8000
        del x, y
        assert meter.live_bytes == 4000
        del view
        assert meter.live_bytes == 0
        assert meter.peak_bytes == 8000
        before.add_(1)
        assert meter.live_bytes == 0
        meter.reset_peak()
        assert meter.peak_bytes == 0


def test_the_graph_of_backward_is_counted() -> None:
    with LiveTensorMeter() as meter:
        x = torch.ones(1000, requires_grad=True)
        y = x.exp().exp().sum()
        assert meter.live_bytes > 3 * 4000
        y.backward()
        del y
        assert meter.live_bytes == 2 * 4000


@pytest.mark.skipif(sys.platform != "linux", reason="it is about glibc's heap")
def test_memory_that_is_given_back_while_rows_are_scored_is_kept_again_in_the_steps_that_follow() -> None:
    program = """
import resource, torch
from symadj_core.memory import freed_at_once

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2**19) for _ in range(12)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with freed_at_once():
    print(faults())
faults()
print(faults())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    inside, after = (int(line) for line in run.stdout.split())
    assert inside >= 20 * 24 * 2**20 // resource.getpagesize(), "each tensor of 2 MiB is faulted in"
    assert after < inside / 10
