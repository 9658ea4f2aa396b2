"""How far a gradient is from backprop's through the same steps: over tolerances, solvers, blocks, and in float32.

The gradient is that of the mean NLL of a continuous normalizing flow, in float64, on points around eight centres of a
circle. A distance is |g - g'| / |g'| over all parameters in one vector. The figures depend on the machine only where
they are rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.paper.methods import Method, methods
from benchmarks.paper.sizes import Size
from symadj_core import FixedStep, IController, solve
from symadj_core.errors import SolverError
from symadj_core.flows import Block, Flow, MLPField
from symadj_core.solvers.controller import Controller

__all__ = ["Distances", "Rounding", "Training", "over_blocks", "over_solvers", "over_tolerances", "rounding", "trained"]

DIM, HIDDEN = 2, (32, 32)
# Stands for the solution itself.
FINEST = 1e-10
CENTRES, SPREAD = 8, 0.2
TRAINED_WITH = ("symplectic, keep stages", "adjoint")
TEST_ROWS = 2000


@dataclass(frozen=True)
class Distances:
    """Relative distances from backprop's gradient in one setting.

    Attributes:
        setting: what was set.
        steps: N, accepted steps of the forward solve, all blocks together.
        of: by method.
        from_the_solution: backprop's own distance from the gradient at `FINEST`; None where that was not asked.
    """

    setting: str
    steps: int
    of: Mapping[str, float]
    from_the_solution: float | None = None


@dataclass(frozen=True)
class Rounding:
    """Relative distances of float32's gradients from float64's by backprop, through so many equal steps."""

    steps: int
    of: Mapping[str, float]


@dataclass(frozen=True)
class Training:
    """NLL in nats on fresh points of flows trained at a tolerance; None where a solve failed."""

    rtol: float
    nll: Mapping[str, float | None]
    uses: Mapping[str, float]


def points(rows: int, seed: int) -> Tensor:
    """Return points [rows, 2], float64, around eight centres of a circle of radius 2."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.randint(CENTRES, (rows,), generator=generator) * (2 * math.pi / CENTRES)
    centres = 2 * torch.stack([angle.cos(), angle.sin()], dim=1).double()
    return centres + SPREAD * torch.randn(rows, DIM, generator=generator, dtype=torch.float64)


def controller(rtol: float) -> IController:
    """Return adaptive steps at this rtol and a hundredth of it as atol."""
    return IController(rtol=rtol, atol=rtol / 100, max_steps=100_000)


def flow_of(method: Method, *, steps: Controller, solver: str = "dopri5", blocks: int = 1) -> Flow:
    """Return a flow in float64, the same for every method."""
    torch.manual_seed(0)
    stack = [
        Block(MLPField(DIM, HIDDEN), solver=solver, controller=steps, gradient=method.gradient, divergence="exact")
        for _ in range(blocks)
    ]
    return Flow(stack, DIM).double()


def gradient(flow: Flow, x: Tensor) -> Tensor:
    """Return the gradient of the mean NLL, all parameters in one vector."""
    flow.zero_grad(set_to_none=True)
    torch.autograd.backward(-flow(x, seed=0).mean())
    return torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])


def distance(vector: Tensor, reference: Tensor) -> float:
    """|vector - reference| / |reference|."""
    return float((vector.double() - reference.double()).norm() / reference.double().norm())


def compared(setting: str, x: Tensor, make: Callable[[Method], Flow], finest: Tensor | None = None) -> Distances:
    """Return every method's distance from backprop's gradient of the flow that `make` gives for it."""
    backprop, *others = methods(x.nbytes)
    flow = make(backprop)
    reference = gradient(flow, x)
    found = {method.label: distance(gradient(make(method), x), reference) for method in others}
    own = None if finest is None else distance(reference, finest)
    return Distances(setting, flow.last_stats.accepted, found, own)


def over_tolerances(size: Size) -> list[Distances]:
    """Compare at every tolerance, by dopri5."""
    x = points(size.flow_rows, seed=1)
    finest = gradient(flow_of(methods(x.nbytes)[0], steps=controller(FINEST)), x)
    return [compared(f"{rtol:.0e}", x, partial(flow_of, steps=controller(rtol)), finest) for rtol in size.tolerances]


def over_solvers(size: Size) -> list[Distances]:
    """Compare with a solver of each order."""
    x = points(size.flow_rows, seed=1)
    return [
        compared(solver, x, partial(flow_of, steps=controller(size.tolerance), solver=solver))
        for solver in size.solvers
    ]


def over_blocks(size: Size) -> list[Distances]:
    """Compare for stacks of M blocks, by dopri5."""
    x = points(size.flow_rows, seed=1)
    return [
        compared(str(blocks), x, partial(flow_of, steps=controller(size.tolerance), blocks=blocks))
        for blocks in size.blocks
    ]


class Spiral(nn.Module):
    """A perceptron beside a slow rotation, so that a long solve stays within bounds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(DIM, 32), nn.Tanh(), nn.Linear(32, DIM))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt [B, D]."""
        slope: Tensor = torch.stack([-y[:, 1], y[:, 0]], dim=1) + 0.1 * self.layers(y) - 0.01 * y
        return slope


def rounding(size: Size) -> list[Rounding]:
    """Compare float32's gradients with float64's, both through the same steps of the classic Runge-Kutta method."""
    x = points(size.flow_rows, seed=1)

    def of(method: Method, steps: int, dtype: torch.dtype) -> Tensor:
        field, times = Spiral().to(dtype), torch.tensor([0.0, 10.0], dtype=dtype)
        grid = FixedStep(10.0 / steps)
        ys = solve(field, x.to(dtype), times, solver="rk4", controller=grid, gradient=method.gradient).ys
        torch.autograd.backward(ys[-1].square().mean())
        return torch.cat([p.grad.flatten() for p in field.parameters() if p.grad is not None])

    rows = []
    for steps in size.rounding_steps:
        all_methods = methods(x.nbytes)
        reference = of(all_methods[0], steps, torch.float64)
        found = {method.label: distance(of(method, steps, torch.float32), reference) for method in all_methods}
        rows.append(Rounding(steps, found))
    return rows


def trained(size: Size) -> list[Training]:
    """Train the same flow at every tolerance, by an exact gradient and by the continuous adjoint."""
    test = points(TEST_ROWS, seed=0)
    rows = []
    for rtol in size.trained_at:
        nll: dict[str, float | None] = {}
        uses: dict[str, float] = {}
        for method in methods(0):
            if method.label not in TRAINED_WITH:
                continue
            nll[method.label], uses[method.label] = _train(size, method, rtol, test)
        rows.append(Training(rtol, nll, uses))
    return rows


def _train(size: Size, method: Method, rtol: float, test: Tensor) -> tuple[float | None, float]:
    """Return the NLL on test points, solved at a fine tolerance, and uses of the field by an optimizer step."""
    flow = flow_of(method, steps=controller(rtol))
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, size.flow_steps)
    uses = 0
    try:
        for step in range(size.flow_steps):
            loss = -flow(points(size.flow_rows, seed=2 + step), seed=0).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            uses += flow.last_stats.nfe_forward + flow.last_stats.nfe_backward
        with torch.no_grad():
            judged = flow.with_settings(controller=controller(1e-6))
            return float(-judged(test, seed=0).mean()), uses / size.flow_steps
    except SolverError:
        return None, uses / size.flow_steps
