"""Small systems that the tests of the core integrate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symadj_core import FixedStep, IController, Quadrature, solve
from symadj_core.gradients import GRADIENTS, GradientMethod
from symadj_core.solvers import tableaus
from symadj_core.solvers.controller import Controller
from symadj_core.solvers.problem import Stats

ALL_SOLVERS = sorted(tableaus.TABLEAUS)
ADAPTIVE_SOLVERS = [name for name in ALL_SOLVERS if tableaus.by_name(name).error is not None]
EXACT_GRADIENTS = [
    *(name for name, kind in GRADIENTS.items() if kind.exact and name != "backprop"),
    "symplectic-steps",
    "symplectic-binomial(3)",
]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype, device="cpu").to(torch.get_default_device())


def gradient_of(name: str) -> GradientMethod:
    """The gradient of that name; what is kept may follow, as in "symplectic-steps"."""
    from symadj_core import gradients

    name, _, keep = name.partition("-")
    return gradients.by_name(name, **({"keep": keep} if keep else {}))


def controller_of(solver: str, *, rtol: float = 1e-4, first_step: float | None = None) -> Controller:
    if tableaus.by_name(solver).error is None:
        return FixedStep(0.17)
    return IController(rtol=rtol, atol=rtol / 10, first_step=first_step)


class SmallField(nn.Module):
    """A nonlinear field of 3 dimensions that depends on time in more than one place."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.inner = nn.Linear(3, 8, dtype=dtype)
        self.outer = nn.Linear(8, 3, dtype=dtype)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64, device="cpu") * 0.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(y) * torch.cos(t))) - 0.1 * y * t


class Straight(nn.Module):
    """dy/dt = speed, whatever t and y are."""

    def __init__(self, speed: Tensor) -> None:
        super().__init__()
        self.speed = nn.Parameter(speed)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.speed.expand_as(y)


def with_rate(field: nn.Module, y: Tensor, requires_grad: bool = True) -> Quadrature:
    """q' = f(t, y).y + t, one number a row."""

    def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        dy = field(t, y)
        return dy, (dy * y).sum(-1) + t

    initial = torch.zeros(y.shape[0], dtype=y.dtype, requires_grad=requires_grad)
    return Quadrature(rates, initial)


def start(dtype: torch.dtype = torch.float64, rows: int = 4) -> Tensor:
    return normal(rows, 3, seed=7).to(dtype).requires_grad_()


def loss_and_gradients(
    gradient: str,
    solver: str = "dopri5",
    *,
    controller: Controller | None = None,
    times: list[float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, list[Tensor], Stats]:
    """Loss over all outputs of a small problem with a quadrature; gradients for y0, q0, t and the parameters."""
    field, y0 = SmallField(dtype), start(dtype)
    t = torch.tensor(times or [0.0, 1.3], dtype=dtype, requires_grad=True)
    quadrature = with_rate(field, y0)
    solution = solve(
        field,
        y0,
        t,
        solver=solver,
        controller=controller or controller_of(solver),
        gradient=gradient_of(gradient),
        quadrature=quadrature,
    )
    weights = torch.linspace(-1, 2, solution.ys.numel(), dtype=dtype).view_as(solution.ys)
    assert solution.quadratures is not None
    loss = (solution.ys * weights).sum() + solution.quadratures.square().sum()
    grads = torch.autograd.grad(loss, [y0, quadrature.initial, t, *field.parameters()])
    return loss.detach(), list(grads), solution.stats


def relative_error(values: list[Tensor], references: list[Tensor]) -> float:
    """Largest over the tensors of |value - reference| / |reference|."""
    return max(float((v - r).norm() / r.norm()) for v, r in zip(values, references, strict=True))
