"""A field and its vector-Jacobian product compiled for the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from symadj_core import FixedStep, odeint_symplectic_adjoint
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


class WithDivergence(nn.Module):
    """The rates of a state [B, 6] and of its log-determinant as a user writes them, by autograd, in one tensor."""

    probe: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 6)
        self.register_buffer("probe", torch.randn(6))

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        with torch.enable_grad():
            y = state[:, :-1]
            if not y.requires_grad:
                y.requires_grad_(True)
            dy = self.last(torch.tanh(self.first(y) + t))
            (row,) = torch.autograd.grad(dy, y, self.probe.expand_as(dy), create_graph=True)
            return torch.cat([dy, -(row * self.probe).sum(-1, keepdim=True)], 1)


def solution_and_gradients(field: nn.Module, state: Tensor) -> list[Tensor]:
    field.zero_grad()
    ys = odeint_symplectic_adjoint(field, state, torch.linspace(0, 1, 5), method="midpoint")
    ys.square().mean().backward()
    return [ys.detach(), *(p.grad.clone() for p in field.parameters() if p.grad is not None)]


@pytest.mark.filterwarnings("error:torch.compile does not take this")
def test_a_users_field_with_a_divergence_by_autograd_is_compiled_too(device: torch.device) -> None:
    torch.manual_seed(0)
    field, state = WithDivergence().to(device), torch.randn(128, 7).to(device)
    plain = solution_and_gradients(field, state)
    field.compile()
    torch.testing.assert_close(solution_and_gradients(field, state), plain, rtol=1e-4, atol=1e-5)
