"""The products of matrices in closed forms, on one core: by oneDNN beside torch's own (MKL), and in a training step.

``python -m benchmarks.products``. Sizes are those of layers in `benchmarks.problem` and in the recipes; one thread, in
turn, medians. "B^T A" is the gradient of the weights. The second table has the products of matrices of a step of
`benchmarks.core` and nothing else of it: by `symplectic`, which computes every stage again, and without that, as in
backpropagation. What takes as many uses of the field can't be faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers.symadj import make
from benchmarks.problem import SIZES, Problem, Size
from benchmarks.table import table
from symadj_core.flows.fields import products

LAYERS = [(500, 430, 430), (500, 43, 430), (500, 430, 43), (500, 128, 128), (1000, 60, 60), (1000, 6, 60), (64, 64, 64)]
ROUNDS, STEPS = 101, 7


def seconds(*functions: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Return the medians of the functions' times, taken in turn."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, times in zip(functions, taken, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def cells(batch: int, inputs: int, outputs: int) -> list[str]:
    """Return microseconds and ratios for a layer of one size."""
    x, back = torch.randn(batch, inputs), torch.randn(batch, outputs)
    weight, bias = torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
    found = []
    for ours, of_torch in (
        (lambda: products.linear(x, weight, bias), lambda: F.linear(x, weight, bias)),
        (lambda: products.linear_tanh(x, weight, bias), lambda: F.linear(x, weight, bias).tanh_()),
        (lambda: products.outer_sum((back, x)), lambda: back.T @ x),
    ):
        own, of_torchs = seconds(ours, of_torch)
        found += [f"{1e6 * own:.0f} of {1e6 * of_torchs:.0f}", f"{own / of_torchs:.2f}"]
    return found


def products_alone(size: Size, steps: int, *, again: bool) -> Callable[[], Tensor]:
    """Return a function that takes the products of a training step by dopri5 with one probe.

    Args:
        size: of the problem.
        steps: accepted in each block. Each has six uses of the field, of which five weigh the log-determinant.
        again: whether every stage is computed again before it is pulled back.
    """
    widths = [size.dim, *size.hidden, size.dim]
    weights = [torch.randn(outputs, inputs) / inputs**0.5 for inputs, outputs in pairwise(widths)]
    values = [torch.randn(size.batch, width) for width in widths]

    def use(layers: int, *, weighed: bool) -> None:
        for x, weight in zip(values[:layers], weights[:layers], strict=True):
            for _ in range(1 + weighed):
                products.linear(x, weight)

    def pull(*, weighed: bool) -> Tensor:
        if again:
            use(len(weights) - 1, weighed=weighed)
        for n in reversed(range(len(weights))):
            pair = values[n + 1], values[n]
            products.outer_sum(*([pair, pair] if weighed else [pair]))
            back = products.linear(values[n + 1], weights[n].T)
            if weighed and n > 0:
                products.linear(values[n + 1], weights[n].T)
        return back

    def step() -> Tensor:
        for _ in range(size.blocks * steps):
            for stage in range(6):
                use(len(weights), weighed=stage > 0)
        for _ in range(size.blocks * steps):
            for stage in range(6):
                back = pull(weighed=stage > 0)
        return back

    return step


def whole_steps() -> Iterator[tuple[str, ...]]:
    """Yield what the products of a step take, beside the whole of it."""
    for name, size in SIZES.items():
        whole = torch.enable_grad()(make(Problem.of(size), "symplectic"))
        uses = whole().nfe_backward
        assert uses is not None
        steps = round(uses / 6 / size.blocks)
        alone = [products_alone(size, steps, again=again) for again in (True, False)]
        taken = seconds(whole, *alone, rounds=STEPS)
        yield name, *(f"{second:.3f}" for second in taken), *(f"{second / taken[0]:.2f}" for second in taken[1:])


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    head: Sequence[str] = ("layer", "x W^T + b, us", "ratio", "its tanh", "ratio", "B^T A", "ratio")
    rows: Iterable[Sequence[str]] = ((f"[{b}, {i}] to {o}", *cells(b, i, o)) for b, i, o in LAYERS)
    print(*table(head, rows), sep="\n")
    head = ("size", "symplectic, s", "its products, s", "without recomputation, s", "ratio", "ratio")
    print("", *table(head, whole_steps()), sep="\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
