"""Training steps of fixed steps as CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.captured import WARM_UP, captured
from symadj_core import FixedStep
from symadj_core.flows import Block, Flow, MLPField
from tests.core.systems import EXACT_GRADIENTS, gradient_of


class Training:
    """A flow that is trained by Adam on the rows that lie in `x`."""

    def __init__(self, gradient: str, device: torch.device, *, compiled: bool = False) -> None:
        torch.manual_seed(0)
        field = MLPField(8, (64, 64))
        if compiled:
            field.compile()
        block = Block(field, solver="rk4", controller=FixedStep(0.1), divergence="hutchinson")
        self.flow = Flow(block, 8).with_settings(gradient=gradient_of(gradient)).to(device)
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=1e-3, capturable=True)
        self.x = torch.zeros(256, 8, device=device)

    def step(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = -self.flow(self.x, seed=0).mean()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@pytest.mark.parametrize("gradient", ["backprop", *EXACT_GRADIENTS])
def test_a_captured_training_step_does_what_the_plain_one_does(gradient: str, cuda: torch.device) -> None:
    compare(Training(gradient, cuda), Training(gradient, cuda))


def test_a_captured_step_of_a_compiled_field_does_what_the_plain_one_does(cuda: torch.device) -> None:
    compare(Training("symplectic", cuda, compiled=True), Training("symplectic", cuda))


def compare(training: Training, plain: Training) -> None:
    replay = captured(training.step)
    for _ in range(WARM_UP):
        plain.step()
    for seed in range(3):
        rows = torch.randn(256, 8, generator=torch.Generator().manual_seed(seed))
        for one in (training, plain):
            one.x.copy_(rows)
        torch.testing.assert_close(replay(), plain.step(), rtol=1e-4, atol=1e-5)
    weights: list[nn.Parameter] = [*training.flow.parameters()]
    torch.testing.assert_close(weights, [*plain.flow.parameters()], rtol=1e-3, atol=1e-5)
