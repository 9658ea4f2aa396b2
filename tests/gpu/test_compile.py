"""A field and its vector-Jacobian product compiled for the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from symadj_core import FixedStep
from symadj_core.flows import Block, Flow, MLPField, ResidualField
from symadj_core.flows.fields.base import VectorField


def loss_and_gradients(field: VectorField, x: Tensor) -> list[Tensor]:
    field.zero_grad()
    flow = Flow(Block(field, solver="midpoint", controller=FixedStep(0.25), divergence="hutchinson"), field.dim)
    loss = -flow(x, seed=0).mean()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in field.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", [lambda: MLPField(6, (32, 32)), lambda: ResidualField(6, 16, 1)])
def test_a_compiled_field_has_the_loss_and_the_gradient_of_the_plain_one(
    make: Callable[[], VectorField], device: torch.device
) -> None:
    torch.manual_seed(0)
    field, x = make().to(device), torch.randn(128, 6).to(device)
    plain = loss_and_gradients(field, x)
    field.compile()
    torch.testing.assert_close(loss_and_gradients(field, x), plain, rtol=1e-4, atol=1e-5)
