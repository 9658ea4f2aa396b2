"""The gradient of a potential."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from symadj_core import FixedStep
from symadj_core.flows import Block, Flow, PotentialField


def double(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_a_potential_field_is_the_gradient_of_its_potential(depth: int, context_dim: int) -> None:
    torch.manual_seed(0)
    field = PotentialField(3, 6, depth, context_dim=context_dim).double()
    with torch.no_grad():
        field.slope.normal_()
        field.curvature.normal_()
    y, t = double(4, 3).requires_grad_(), torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    context = double(4, 2, seed=2) if context_dim else None
    by_y, by_t = torch.autograd.grad(field.potential(t, y, context).sum(), [y, t])
    torch.testing.assert_close(field(t, y, context), -by_y)
    expected = by_t - 0.5 * by_y.square().sum(-1)
    torch.testing.assert_close(field.hamilton_jacobi(t, y, context), expected)


@pytest.mark.parametrize(("dim", "width"), [(2, 64), (2, 512), (43, 256)])
@pytest.mark.parametrize("zero_init", [False, True])
def test_a_flow_starts_near_the_identity_whatever_its_size(dim: int, width: int, zero_init: bool) -> None:
    torch.manual_seed(0)
    flow, x = Flow([Block(PotentialField(dim, width, zero_init=zero_init), solver="rk4")], dim), torch.randn(500, dim)
    with torch.no_grad():
        z = flow.to_base(x)
    assert 0.8 < float(z.std() / x.std()) < 1.1
    assert torch.equal(z, x) == zero_init


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_potential_far_from_the_origin_has_finite_gradients(divergence: str) -> None:
    torch.manual_seed(0)
    settings = {"gradient": "backprop", "solver": "rk4", "controller": FixedStep(0.25)}
    flow = Flow([Block(PotentialField(3, 8), divergence=divergence, **settings)], 3)
    flow(1000 * torch.randn(4, 3), seed=0).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in flow.parameters())
