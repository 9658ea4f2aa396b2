"""The products of matrices in closed forms, by oneDNN beside torch's own (MKL), on one core.

``python -m benchmarks.products``. Sizes are those of layers in `benchmarks.problem` and in the recipes; one thread, in
turn, medians. "B^T A" is the gradient of the weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.table import table
from symadj_core.flows.fields import products

SIZES = [(500, 430, 430), (500, 43, 430), (500, 430, 43), (500, 128, 128), (1000, 60, 60), (1000, 6, 60), (64, 64, 64)]
ROUNDS = 101


def seconds(*functions: Callable[[], Tensor]) -> list[float]:
    """Return the medians of the functions' times, taken in turn."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
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


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    head = ("layer", "x W^T + b, us", "ratio", "its tanh", "ratio", "B^T A", "ratio")
    for line in table(head, ((f"[{b}, {i}] to {o}", *cells(b, i, o)) for b, i, o in SIZES)):
        print(line, flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
