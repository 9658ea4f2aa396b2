"""How often the host waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from symadj_core import FixedStep, IController
from symadj_core.flows import Block, Flow, MLPField
from symadj_core.solvers.controller import Controller
from tests.core.reads import HostReads
from tests.core.systems import EXACT_GRADIENTS, gradient_of

BLOCKS = 2


def flow_on(device: torch.device, gradient: str, solver: str, controller: Controller) -> Flow:
    torch.manual_seed(0)
    blocks = [
        Block(MLPField(4, (16, 16)), solver=solver, controller=controller, divergence="hutchinson")
        for _ in range(BLOCKS)
    ]
    return Flow(blocks, 4).with_settings(gradient=gradient_of(gradient)).to(device)


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """Fail on whatever makes the host wait for the device."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with HostReads() as reads:
            yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert reads.count == 0


@pytest.mark.parametrize("gradient", ["backprop", *EXACT_GRADIENTS])
def test_adaptive_steps_are_read_once_an_attempt_and_their_backward_never(gradient: str, device: torch.device) -> None:
    flow = flow_on(device, gradient, "dopri5", IController(rtol=1e-4, atol=1e-5))
    x = torch.randn(32, 4, device=device)
    flow(x, seed=0).mean().backward()
    flow.zero_grad()
    with HostReads() as reads:
        loss = flow(x, seed=0).mean()
    stats = flow.last_stats
    # Each block's first step is chosen by one read more.
    assert reads.count <= stats.accepted + stats.rejected + BLOCKS
    with without_waiting(device):
        loss.backward()


@pytest.mark.parametrize("gradient", ["backprop", *EXACT_GRADIENTS])
def test_fixed_steps_are_read_once_a_solve_and_their_backward_never(gradient: str, device: torch.device) -> None:
    flow = flow_on(device, gradient, "rk4", FixedStep(0.1))
    x = torch.randn(32, 4, device=device)
    flow(x, seed=0).mean().backward()
    flow.zero_grad()
    with HostReads() as reads:
        loss = flow(x, seed=0).mean()
    assert reads.count <= BLOCKS
    with without_waiting(device):
        loss.backward()
