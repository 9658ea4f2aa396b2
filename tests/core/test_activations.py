"""Activations: the derivatives that the closed forms are made of."""

from __future__ import annotations

import pytest
import torch

from symadj_core.flows.fields.activations import ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_have_the_derivatives_that_autograd_finds(name: str, dtype: torch.dtype) -> None:
    activation = ACTIVATIONS[name]
    z = torch.cat([torch.linspace(-60, 60, 241), torch.tensor([-1e8, -1e4, 1e4, 1e8])]).to(dtype).requires_grad_()
    value = activation(z)
    (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), z)
    known, kept = activation.evaluate(z.detach().clone())
    torch.testing.assert_close(known, value.detach(), rtol=0, atol=0)
    for found, expected in (
        (activation.slope(kept), slope.detach()),
        (activation.scale(torch.ones_like(known), kept), slope.detach()),
        (activation.bend(torch.zeros_like(known), torch.ones_like(known), kept), bend),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=4 * torch.finfo(dtype).eps)
