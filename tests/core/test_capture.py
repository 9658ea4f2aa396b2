"""What a CUDA graph needs of a solve with fixed steps: that nothing is read from the device, nor copied to it.

Tensors of the device "meta" have no values, so that each read fails, and mix with no others: they find on any machine
what a capture would refuse. The captures themselves are in tests/gpu.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from symadj_core import FixedStep, solve
from symadj_core.flows import Block, Flow, MLPField
from symadj_core.gradients import GRADIENTS
from symadj_core.solvers import system, timeloop
from tests.core.systems import EXACT_GRADIENTS, gradient_of


@pytest.fixture(autouse=True)
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let solves take what they are within for a capture."""
    for module in (system, timeloop):
        monkeypatch.setattr(module, "capturing", lambda device: True)


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device without values, of which autocast knows nothing."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda *_: torch.float32)
    return torch.device("meta")


@pytest.mark.parametrize("gradient", [*GRADIENTS, "symplectic-steps"])
def test_a_training_step_of_fixed_steps_reads_nothing_from_the_device_and_copies_nothing_to_it(
    gradient: str, meta: torch.device
) -> None:
    with meta:
        block = Block(MLPField(4, (8, 8)), solver="midpoint", controller=FixedStep(0.5), gradient=gradient_of(gradient))
        x = torch.randn(5, 4)
    flow = Flow(block, 4)
    (-flow(x, seed=0).mean()).backward()
    assert all(p.grad is not None for p in flow.parameters())


@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
def test_a_field_that_draws_random_numbers_is_refused_since_they_could_not_be_drawn_again(gradient: str) -> None:
    field = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))

    def loss() -> torch.Tensor:
        solution = solve(
            lambda t, y: field(y),
            torch.ones(2, 3),
            torch.tensor([0.0, 1.0], device="cpu"),
            solver="euler",
            gradient=gradient_of(gradient),
            parameters=field.parameters(),
        )
        return solution.ys[-1].sum()

    with pytest.raises(RuntimeError, match="can't be drawn again by backward: leave it out of the graph"):
        loss()
    field.eval()
    loss().backward()
