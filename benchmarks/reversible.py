"""Reversible solvers on a field that contracts: why symadj has none.

``python -m benchmarks.reversible``. A reversible solver stores nothing: it computes its states again from the last one,
backward. Its steps carry a second copy of the state. y' = -k (y - sin 5 t) is solved from y = 1 over t = 0 to 1, whose
solution is known, for contractions by e^k, in N steps:

    midpoint         explicit, as `symadj_core` solves it for the symplectic adjoint, which stores its states
    reversible Heun  P. Kidger, J. Foster, X. Li and T. Lyons, NeurIPS 2021 (arXiv 2105.13493)
    coupled          the same midpoint method, made reversible by S. McCallum and J. Foster (arXiv 2410.11648), with a
                     coupling c of 0.99, and with e^(-k / N), the largest at which nothing grows here

The figure is |y - exact| at the end; "back" is the distance of the initial state from what the same steps give
backward. Where the solution's step has a factor of e^(-k / N), the second copy's has one of c e^(k / N), the product of
the two being c (and -1 for reversible Heun): over N steps an error grows by c^N e^k. Backward, rounding grows by the
inverses, e^k and c^-N. Errors are deterministic: there is nothing to repeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.table import table
from symadj_core import FixedStep, solve

RATES = (1.0, 5.0, 10.0, 15.0)
STEPS = (64, 256)
FREQUENCY = 5.0
COUPLING = 0.99

Field = Callable[[float, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]
# (field, t, h, pair) -> pair
Move = Callable[[Field, float, float, Pair], Pair]


def field_of(rate: float) -> Field:
    """Return f(t, y) = -rate (y - sin 5 t)."""
    return lambda t, y: -rate * (y - math.sin(FREQUENCY * t))


def exact(rate: float, t: float) -> float:
    """Return y(t) for y(0) = 1."""

    def forced(moment: float) -> float:
        wave = rate * math.sin(FREQUENCY * moment) - FREQUENCY * math.cos(FREQUENCY * moment)
        return rate * wave / (rate**2 + FREQUENCY**2)

    return forced(t) + (1.0 - forced(0.0)) * math.exp(-rate * t)


def heun_forward(field: Field, t: float, h: float, pair: Pair) -> Pair:
    """Take one step of reversible Heun."""
    y, other = pair
    following = 2 * y - other + h * field(t, other)
    return y + h / 2 * (field(t, other) + field(t + h, following)), following


def heun_backward(field: Field, t: float, h: float, pair: Pair) -> Pair:
    """Undo the step that began at t."""
    y, other = pair
    before = 2 * y - other - h * field(t + h, other)
    return y - h / 2 * (field(t + h, other) + field(t, before)), before


def increment(field: Field, t: float, h: float, y: Tensor) -> Tensor:
    """Return what a step of the explicit midpoint method adds."""
    return h * field(t + h / 2, y + h / 2 * field(t, y))


def coupled_forward(field: Field, t: float, h: float, pair: Pair, coupling: float) -> Pair:
    """Take one coupled step."""
    y, other = pair
    y = coupling * y + (1 - coupling) * other + increment(field, t, h, other)
    return y, other - increment(field, t + h, -h, y)


def coupled_backward(field: Field, t: float, h: float, pair: Pair, coupling: float) -> Pair:
    """Undo the step that began at t."""
    y, other = pair
    other = other + increment(field, t + h, -h, y)
    return (y - (1 - coupling) * other - increment(field, t, h, other)) / coupling, other


def there_and_back(forward: Move, backward: Move, rate: float, steps: int, dtype: torch.dtype) -> tuple[float, float]:
    """Return the error at the end, and that of the initial state found again."""
    field, h = field_of(rate), 1.0 / steps
    start = torch.ones((), dtype=dtype)
    pair = (start, start)
    for n in range(steps):
        pair = forward(field, n * h, h, pair)
    error = abs(float(pair[0]) - exact(rate, 1.0))
    for n in reversed(range(steps)):
        pair = backward(field, n * h, h, pair)
    return error, abs(float(pair[0]) - 1.0)


def by_itself(rate: float, steps: int) -> float:
    """Return the error of the explicit midpoint method."""
    start, times = torch.ones((), dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return -rate * (y - torch.sin(FREQUENCY * t))

    ys = solve(field, start, times, solver="midpoint", controller=FixedStep(1.0 / steps)).ys
    return abs(float(ys[-1]) - exact(rate, 1.0))


def coupled(coupling: float) -> tuple[Move, Move]:
    """Return the coupled step and its inverse."""
    return partial(coupled_forward, coupling=coupling), partial(coupled_backward, coupling=coupling)


def main() -> None:
    """Measure and print the table."""
    head = ["contraction", "N", "midpoint", "reversible Heun", "coupled, 0.99", "coupled, e^(-k / N)"]
    head += ["coupled, e^(-k / N): back", "and in float32"]
    for line in table(head, rows()):
        print(line)


def rows() -> Iterator[Sequence[str]]:
    """Yield what is measured, a row a contraction and number of steps."""
    for rate in RATES:
        for steps in STEPS:
            fitted = coupled(math.exp(-rate / steps))
            numbers = [
                by_itself(rate, steps),
                there_and_back(heun_forward, heun_backward, rate, steps, torch.float64)[0],
                there_and_back(*coupled(COUPLING), rate, steps, torch.float64)[0],
                *there_and_back(*fitted, rate, steps, torch.float64),
                there_and_back(*fitted, rate, steps, torch.float32)[1],
            ]
            yield f"e^{rate:g}", str(steps), *(f"{number:.0e}" for number in numbers)


if __name__ == "__main__":
    main()
