"""The exact divergence beside Hutchinson's estimate: time of a training step, and noise of the gradient.

``python -m benchmarks.trace``. Perceptrons of two hidden layers have the exact trace in closed form; "by products" is
what a field without it pays. One block, symplectic gradient, dopri5 at 1e-3/1e-4, one thread, interleaved, medians.
Noise is the root mean square over seeds of |g - g_exact| / |g_exact|, g the gradient of the batch's mean NLL.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from symadj_core import IController
from symadj_core.flows import Block, Exact, Flow, Hutchinson, MLPField

SIZES = {"D 13, 128 x 2, batch 500": (13, (128, 128), 500), "D 43, 430 x 2, batch 500": (43, (430, 430), 500)}
ROUNDS, SEEDS = 9, 16
LARGEST_BY_PRODUCTS = 16  # above, a step takes many seconds


class Opaque(nn.Module):
    """The same field, with nothing known of it."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.field(t, y)
        return result


def training_step(data: Tensor, field: nn.Module, divergence: Exact | Hutchinson) -> Callable[[int], Tensor]:
    """Return a function of the probes' seed that gives the gradient of all parameters in one vector."""
    flow = Flow([Block(field, divergence=divergence, controller=IController(rtol=1e-3, atol=1e-4))], data.shape[1])

    def step(seed: int) -> Tensor:
        flow.zero_grad(set_to_none=True)
        (-flow(data, seed=seed).mean()).backward()
        return torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])

    return step


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| size | divergence | step, ms | beside one probe | noise of the gradient |\n| --- | --- | --- | --- | --- |"
    )
    for name, (dim, hidden, batch) in SIZES.items():
        torch.manual_seed(0)
        field, data = MLPField(dim, hidden), torch.randn(batch, dim)
        steps = {
            "Hutchinson, 1 probe": training_step(data, field, Hutchinson()),
            "Hutchinson, 4 probes": training_step(data, field, Hutchinson(probes=4)),
            "exact, in closed form": training_step(data, field, Exact()),
        }
        if dim <= LARGEST_BY_PRODUCTS:
            steps["exact, by products"] = training_step(data, Opaque(field), Exact())
        seconds: dict[str, list[float]] = {kind: [] for kind in steps}
        for round_number in range(ROUNDS + 1):
            for kind, step in steps.items():
                began = time.perf_counter()
                step(0)
                if round_number:
                    seconds[kind].append(time.perf_counter() - began)
        exact = steps["exact, in closed form"](0)
        base = statistics.median(seconds["Hutchinson, 1 probe"])
        for kind, step in steps.items():
            gradients = [step(seed) for seed in range(SEEDS)] if "Hutchinson" in kind else [step(0)]
            squares = [float((g - exact).square().sum() / exact.square().sum()) for g in gradients]
            noise = statistics.fmean(squares) ** 0.5
            median = statistics.median(seconds[kind])
            print(f"| {name} | {kind} | {1e3 * median:.1f} | {median / base:.2f} | {noise:.1e} |", flush=True)


if __name__ == "__main__":
    main()
