"""What a training step takes of the device's memory, beside what was planned."""

from __future__ import annotations

import torch

from benchmarks.gpu import peak_of
from benchmarks.planning import MOST_OFF, methods
from symadj_core import FixedStep, planning
from symadj_core.flows import Block, Flow, MLPField
from symadj_core.memory import PeakMeter
from symadj_core.solvers.controller import EvenGrid

ROWS, STEPS = 4096, 6


def test_the_peak_of_every_gradient_is_planned_within_a_tenth(device: torch.device) -> None:
    torch.manual_seed(0)
    block = Block(
        MLPField(16, (128, 128)), solver="midpoint", controller=FixedStep(grid=EvenGrid(STEPS)), divergence="hutchinson"
    )
    planned, off = Flow(block, 16), {}
    rehearsal = planning.Rehearsal(planned)
    x, index = torch.randn(ROWS, 16, device=device), torch.arange(ROWS, device=device)
    for name, method in methods(planned, ROWS, STEPS):
        rounding = planning.DEVICE_ROUNDING if device.type == "cuda" else 1
        predicted = rehearsal.forecast(method, ROWS, rounding=rounding).peak_bytes(STEPS)
        flow = Flow(block, 16).with_settings(gradient=method).to(device)

        def step(flow: Flow = flow) -> None:
            planning.mean_nll(flow, x, index, None).backward()  # type: ignore[no-untyped-call]

        step()  # what libraries keep for themselves is there from the first step on
        flow.zero_grad()
        off[name] = predicted / peak_of(step, device) - 1
        flow.zero_grad()
    assert {name: f"{by:+.1%}" for name, by in off.items() if abs(by) > MOST_OFF} == {}


def test_the_meter_sees_a_peak_of_the_device_that_is_over_when_its_window_ends(cuda: torch.device) -> None:
    with PeakMeter(cuda).window() as window:
        block = torch.empty(64 * 2**20, dtype=torch.uint8, device=cuda)
        del block
    assert window.device_start_bytes is not None
    assert window.device_peak_bytes == window.device_start_bytes + 64 * 2**20
