"""Uses of the network by `keep: binomial`, beside the fewest possible.

``python -m benchmarks.keep``. A use is one evaluation of the field or one backward pass through it, those of forward
solve and backward sweep together, counted by the field itself and divided by the N steps and the s stages of one. To go
back through a step takes s - 1 evaluations (its stages' states) and s more, each with a backward pass; schedules differ
in how many steps they take forward. The fewest for N steps and S states are t(N, S) = r N - C(S + r, S + 1), where
C(S + r - 1, S) < N <= C(S + r, S) (Griewank and Walther 2000), and the last step, which a solve takes for its result.
An adaptive solve's rejected attempts come on top, once, whatever is kept; here none is rejected. Counts are exact:
there is nothing to repeat.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor, nn

from symadj_core import FixedStep, IController, gradients, solve
from symadj_core.solvers import tableaus
from symadj_core.solvers.controller import Controller

STATES = (4, 8, 16, 32, 64)
STEPS = (64, 128, 256, 512, 1024, 2000)
# The number of steps is known before the solve with the first, not with the second.
KNOWN, UNKNOWN = "rk4", "dopri5"


class CountingField(nn.Module):
    """A pendulum with friction that counts its uses."""

    def __init__(self) -> None:
        super().__init__()
        self.friction = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.uses = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope of (angle, speed)."""
        self.uses += 1
        slope = torch.stack([y[1], -torch.sin(y[0]) - self.friction * y[1]])
        if slope.requires_grad:
            slope.register_hook(self._count)
        return slope

    def _count(self, _cotangent: Tensor) -> None:
        self.uses += 1


def controller(solver: str, size: float) -> Controller:
    """Return steps of that size, fixed in advance, or taken by an adaptive solve that rejects none."""
    if solver == KNOWN:
        return FixedStep(size)
    return IController(rtol=1.0, atol=1.0, first_step=size, max_step=size)


def counted(solver: str, states: int, steps: int) -> float:
    """Return the uses per stage and step of one solve and its gradient."""
    field = CountingField()
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    gradient = gradients.by_name("symplectic", keep=f"binomial({states})")
    # A power of two, whose multiples are exact: the number of steps is, too.
    size = 2.0**-11
    times = torch.tensor([0.0, steps * size], dtype=torch.float64)
    solution = solve(field, y0, times, solver=solver, controller=controller(solver, size), gradient=gradient)
    solution.ys[-1].sum().backward()
    if (solution.stats.accepted, solution.stats.rejected) != (steps, 0):
        raise SystemExit(f"{solution.stats.accepted} steps were taken, not {steps}")
    return field.uses / (steps * tableaus.by_name(solver).stages)


def optimum(solver: str, states: int, steps: int) -> float:
    """Return the fewest uses per stage and step."""
    repeats = 0
    while comb(states + repeats, states) < steps:
        repeats += 1
    forward = repeats * steps - comb(states + repeats, states + 1) + 1
    stages = tableaus.by_name(solver).stages
    return forward / steps + (stages - 1) / stages + 2


def main() -> None:
    """Count, and print the table."""
    torch.set_num_threads(1)
    print(f"| states | steps | optimum, {KNOWN} | N known | ratio | optimum, {UNKNOWN} | N unknown | ratio |")
    print("|" + " --- |" * 8)
    for states in STATES:
        for steps in STEPS:
            cells = [str(states), str(steps)]
            for solver in (KNOWN, UNKNOWN):
                least, found = optimum(solver, states, steps), counted(solver, states, steps)
                cells += [f"{least:.2f}", f"{found:.2f}", f"{found / least:.3f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
