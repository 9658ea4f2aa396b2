"""Fields as users of torchdiffeq write them: the state and its log-determinant in one tensor, by autograd's divergence.

Autograd pulls no zeros back through the divergence's graph, and no graph outlives one use of the field.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symadj_core import odeint, odeint_symplectic_adjoint
from tests.core.systems import relative_error

DIM = 3
TIMES = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)


class Augmented(nn.Module):
    """(f, -div f) [B, D + 1]; `passes` counts how often the divergence's graph was gone through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(DIM, 5), nn.Tanh(), nn.Linear(5, DIM)).double()
        self.passes = 0

    def parts(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            if not y.requires_grad:
                y.requires_grad_(True)
            dy = self.net(y) * torch.cos(t)
            (row,) = torch.autograd.grad(dy.sum(), y, create_graph=True)
            divergence = row.sum(-1, keepdim=True)
            divergence.register_hook(self._count)
            return dy, -divergence

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.cat(self.parts(t, state[:, :-1]), dim=-1)

    def _count(self, cotangent: Tensor) -> None:
        self.passes += 1


class InTuple(Augmented):
    def forward(self, t: Tensor, state: Any) -> Any:
        return self.parts(t, state[0])


class ReadsLogDet(Augmented):
    """Not a quadrature: where the log-determinant is large enough, the field turns."""

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        slope = super().forward(t, state)
        return slope * (1 + state[:, -1:]) if bool(state[:, -1].abs().max() > 0.1) else slope


class ByTime(Augmented):
    def parts(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        dy, divergence = super().parts(t, y)
        return dy, divergence * t.square()


class InThreeParts(Augmented):
    """Along the last dimension the parts are 2, 1 and 1 wide."""

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        with torch.enable_grad():
            dy, divergence = self.parts(t, state[:, :-1])
            return torch.cat([dy[:, :2], dy[:, 2:], divergence], dim=1)


class Constant(Augmented):
    """The last column's rate has no graph."""

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        return torch.cat([self.net(state[:, :-1]), torch.ones_like(state[:, -1:])], dim=1)


class Hooked(Augmented):
    """A hook changes the cotangent of what the field returns, so that no column of it stays zero."""

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        slope = super().forward(t, state)
        if slope.requires_grad:
            slope.register_hook(lambda cotangent: cotangent + 0.1)
        return slope


class HookedModule(Augmented):
    def __init__(self) -> None:
        super().__init__()
        self.register_full_backward_hook(lambda module, inputs, outputs: (None, 2 * inputs[1]))


class Mixed(Augmented):
    """The divergence is in a precision of its own."""

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        with torch.enable_grad():
            dy, divergence = self.parts(t, state[:, :-1])
            return torch.cat([dy, divergence.float()], dim=1)


FIELDS = [Augmented, InTuple, ReadsLogDet, ByTime, InThreeParts, Constant, Mixed]


def start() -> Tensor:
    torch.manual_seed(1)
    return torch.cat([torch.randn(4, DIM, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)], 1)


def loss_of(ys: Any) -> Tensor:
    y, log_det = (ys[..., :-1], ys[..., -1:]) if isinstance(ys, Tensor) else ys
    return y.square().sum() + (log_det * torch.linspace(1, 2, 4, dtype=torch.float64)[:, None]).sum()


def gradients(
    solve: Callable[..., Any], field: nn.Module, loss: Callable[..., Tensor] = loss_of, **options: Any
) -> list[Tensor]:
    """Of the initial state, the times and the parameters; zero for None, as torch.autograd.grad materialises it."""
    y0, t = start().requires_grad_(), TIMES.clone().requires_grad_()
    state = (y0[:, :-1], y0[:, -1:]) if isinstance(field, InTuple) else y0
    ys = solve(field, state, t, rtol=1e-5, atol=1e-5, **options)
    return list(torch.autograd.grad(loss(ys), [y0, t, *field.parameters()], materialize_grads=True))


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
@pytest.mark.parametrize("make", FIELDS)
def test_the_gradient_is_that_of_backprop_however_the_field_is_put_together(make: Any, method: str) -> None:
    expected = gradients(odeint, make(), method=method)
    for ours, theirs in zip(gradients(odeint_symplectic_adjoint, make(), method=method), expected, strict=True):
        assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize("make", [Hooked, HookedModule])
def test_hooks_on_what_the_field_returns_see_the_whole_cotangent(make: Any) -> None:
    # At one use a step: what a hook adds depends on how often the field is used.
    options: dict[str, Any] = {"method": "euler", "options": {"step_size": 0.1}}
    expected = gradients(odeint, make(), **options)
    for ours, theirs in zip(gradients(odeint_symplectic_adjoint, make(), **options), expected, strict=True):
        assert relative_error(ours, theirs) < 1e-12


@pytest.mark.parametrize("make", [Augmented, InTuple])
def test_a_stage_that_does_not_weigh_the_log_determinant_is_not_pulled_through_its_divergence(make: Any) -> None:
    field, y0 = make(), start()
    state = (y0[:, :-1], y0[:, -1:]) if make is InTuple else y0
    ys = odeint_symplectic_adjoint(field, state, TIMES[[0, 2]], rtol=1e-5, atol=1e-5, method="dopri5")
    uses: list[Tensor] = []
    field.net.register_forward_hook(lambda *_: uses.append(y0))
    loss_of(ys).backward()
    # Of dopri5's six stages the second has no weight.
    assert len(uses) > 6
    assert field.passes * 6 == len(uses) * 5


def test_a_loss_without_the_log_determinant_needs_no_pass_through_the_divergence() -> None:
    field = Augmented()
    ys = odeint_symplectic_adjoint(field, start(), TIMES, rtol=1e-5, atol=1e-5)
    ys[..., :-1].square().sum().backward()
    assert field.passes == 0
    assert all(p.grad is not None for p in field.parameters())


class WithScale(Augmented):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def parts(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        dy, divergence = super().parts(t, y)
        return dy, divergence * self.scale


@pytest.mark.parametrize("solve", [odeint, odeint_symplectic_adjoint])
def test_a_parameter_of_a_part_without_cotangent_gets_a_gradient_of_zero(solve: Callable[..., Tensor]) -> None:
    field = WithScale()
    solve(field, start(), TIMES, rtol=1e-5, atol=1e-5)[..., :-1].square().sum().backward()
    assert field.scale.grad is not None
    assert field.scale.grad == 0.0


class Kept:
    """A tensor that a graph keeps for its backward."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Watched(Augmented):
    """Notes at each use how many tensors the graphs of the uses before still keep."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: weakref.WeakSet[Kept] = weakref.WeakSet()
        self.counts: list[int] = []

    def _pack(self, tensor: Tensor) -> Kept:
        kept = Kept(tensor.detach())
        self.alive.add(kept)
        return kept

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        self.counts.append(len(self.alive))
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor):
            return super().forward(t, state)


@pytest.mark.parametrize("keep", ["stages", "steps"])
def test_no_graph_outlives_a_use_of_the_field_even_where_the_field_makes_it_itself(keep: str) -> None:
    field = Watched()
    ys = odeint_symplectic_adjoint(field, start(), TIMES, rtol=1e-5, atol=1e-5, keep=keep)
    loss_of(ys).backward()
    assert len(field.counts) > 20
    assert not any(field.counts)


def test_no_graph_is_held_without_a_gradient_and_forward_mode_goes_through_nevertheless() -> None:
    field = Watched()
    with torch.no_grad():
        odeint(field, start(), TIMES, rtol=1e-5, atol=1e-5)
    assert not any(field.counts)
    y0 = start()

    def end(y: Tensor) -> Tensor:
        def by_net(t: Tensor, y: Tensor) -> Tensor:
            with torch.enable_grad():
                return field.net(y)

        end: Tensor = odeint(by_net, y, TIMES, method="rk4", options={"step_size": 0.5})[-1]
        return end

    y = y0[:, :-1]
    expected = torch.func.jvp(end, (y,), (torch.ones_like(y),))[1]
    with torch.no_grad():
        _, under_no_grad = torch.func.jvp(end, (y,), (torch.ones_like(y),))
        with torch.autograd.forward_ad.dual_level():
            out = end(torch.autograd.forward_ad.make_dual(y, torch.ones_like(y)))
            dual = torch.autograd.forward_ad.unpack_dual(out).tangent
    assert expected.any()
    torch.testing.assert_close(under_no_grad, expected)
    torch.testing.assert_close(dual, expected)
