"""The memory that is forecast for a training step, beside what one takes: every gradient, on seven different flows.

``python -m benchmarks.planning [FLOW ...]``. "Predicted" is what `symadj_core.planning` says from
rehearsals of few rows and steps, for as many steps as the solve then took; "measured" is the exact peak of live tensor
storage in one training step. Beside them the second part of a batch whose gradient is added to that of the first, a
step of flow matching, and rows that are scored without a gradient. The exit status is 1 where they differ by more than
10 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symadj_core import FixedStep, IController, planning
from symadj_core.flows import Block, ConvField, Flow, HutchPlusPlus, MLPField, PotentialField, ResidualField
from symadj_core.flows import multiscale_flow as images
from symadj_core.flows.matching import flow_matching_loss
from symadj_core.gradients import GRADIENTS, GradientMethod, Symplectic
from symadj_core.gradients.keep import KEEPS, Binomial, Budget
from symadj_core.memory import LiveTensorMeter
from symadj_core.solvers.controller import EvenGrid

MOST_OFF = 0.10
REGULARISERS = ("kinetic", "jacobian_frobenius")


@dataclass(frozen=True)
class Case:
    """A flow, how many rows of it a step takes, and what is minimised."""

    what: str
    make: Callable[[], Flow]
    batch: int
    loss: planning.Loss = planning.mean_nll


def regularised(flow: Flow, x: Tensor, sample_index: Tensor, context: Tensor | None) -> Tensor:
    """Return the NLL with RNODE's two penalties (Finlay et al., 2020)."""
    log_prob, costs = flow.regularised_log_prob(
        x, seed=0, sample_index=sample_index, context=context, regularisers=REGULARISERS
    )
    return -log_prob.mean() + sum(0.01 * cost.mean() for cost in costs.values())


CASES = {
    "perceptron": Case(
        "1 block, D 10, 64 x 2, closed form, dopri5",
        lambda: Flow(Block(MLPField(10, (64, 64)), controller=IController(1e-6, 1e-7)), 10),
        300,
    ),
    "stack": Case(
        "4 blocks, D 6, 60 x 3, learnt end time, rk4 of 12 steps",
        lambda: Flow(
            [
                Block(
                    MLPField(6, (60, 60, 60)),
                    solver="rk4",
                    controller=FixedStep(grid=EvenGrid(12)),
                    divergence="hutchinson",
                    learn_end_time=True,
                )
                for _ in range(4)
            ],
            6,
        ),
        200,
    ),
    "conditional": Case(
        "2 blocks, D 5, context 3, residual 48 x 4, tsit5",
        lambda: Flow(
            [
                Block(ResidualField(5, 48, 2, context_dim=3), solver="tsit5", controller=IController(1e-6, 1e-7))
                for _ in range(2)
            ],
            5,
        ),
        200,
    ),
    "long": Case(
        "1 block, D 4, 32 x 2, concat, dopri5 of 100 steps",
        lambda: Flow(Block(MLPField(4, (32, 32), time="concat"), controller=FixedStep(grid=EvenGrid(100))), 4),
        100,
    ),
    "images": Case(
        "multiscale, 1 x 8 x 8, 16 channels x 2, bosh3",
        lambda: images(
            (1, 8, 8),
            lambda shape: ConvField(shape, (16, 16)),
            levels=2,
            blocks=1,
            solver="bosh3",
            controller=IController(1e-4, 1e-5),
        ),
        50,
    ),
    "regularised": Case(
        "2 blocks, potential of D 8, width 32, RNODE's penalties, heun3 of 10 steps",
        lambda: Flow(
            [
                Block(
                    PotentialField(8, 32),
                    solver="heun3",
                    controller=FixedStep(grid=EvenGrid(10)),
                    divergence="hutchinson",
                )
                for _ in range(2)
            ],
            8,
        ),
        200,
        regularised,
    ),
    "hutchpp": Case(
        "1 block, D 12, 96 x 2, Hutch++ of 3 probes, float64, dopri8",
        lambda: Flow(
            Block(
                MLPField(12, (96, 96)),
                solver="dopri8",
                controller=IController(1e-8, 1e-9),
                divergence=HutchPlusPlus(),
            ),
            12,
        ).double(),
        100,
    ),
}


def methods(flow: Flow, batch: int, steps: int) -> Iterator[tuple[str, GradientMethod]]:
    """Yield every gradient with everything that it may keep, of those with a bound one that binds."""
    state = batch * flow.dim * next(flow.parameters()).itemsize
    bounds = {Binomial: Binomial(4), Budget: Budget(round(state * steps * 2))}
    for name, kind in GRADIENTS.items():
        if kind is not Symplectic:
            yield name, kind()
            continue
        for keep_name, keep in KEEPS.items():
            yield f"{name}, {keep_name}", Symplectic(bounds[keep] if keep in bounds else keep())


def matching(flow: Flow, x: Tensor, sample_index: Tensor, context: Tensor | None) -> Tensor:
    """Return the loss of flow matching, at times that are drawn evenly and in no order."""
    time = (torch.randperm(len(x)) + torch.rand(len(x), dtype=x.dtype)) / len(x)
    return flow_matching_loss(flow, x, torch.randn_like(x), time, context).mean()


def measured(flow: Flow, batch: int, loss: planning.Loss, *, accumulates: bool = False) -> tuple[int, list[int]]:
    """Return the exact peak of a training step, and how many steps the solve of each block took."""
    torch.manual_seed(1)
    dtype = next(flow.parameters()).dtype
    x = torch.randn(batch, flow.dim, dtype=dtype)
    context = torch.randn(batch, flow.context_dim, dtype=dtype) if flow.context_dim else None
    index = torch.arange(batch)

    def step() -> None:
        value = loss(flow, x, index, context)
        if torch.is_grad_enabled():
            value.backward()  # type: ignore[no-untyped-call]

    step()
    flow.zero_grad()
    with LiveTensorMeter() as meter:
        if accumulates:
            for parameter in flow.parameters():
                parameter.grad = torch.zeros_like(parameter)
        step()
    flow.zero_grad()
    return meter.peak_bytes, [stats.accepted for stats in flow.block_stats]


def compared(case: Case) -> Iterator[tuple[str, list[int], int, int]]:
    """Yield of every gradient, and of what else is forecast, its name, the steps of each block's solve, and the bytes
    predicted and measured."""
    torch.manual_seed(0)
    flow, batch = case.make(), case.batch
    _, steps = measured(flow, batch, case.loss)
    rehearsal = planning.Rehearsal(flow, loss=case.loss)
    for name, method in methods(flow, batch, max(steps)):
        twin = flow.with_settings(gradient=method)
        predicted = rehearsal.forecast(method, batch)
        found, steps = measured(twin, batch, case.loss)
        yield name, steps, predicted.peak_bytes(steps), found
    for name in ("backprop", "symplectic"):
        added = rehearsal.forecast(name, batch, accumulates=True)
        found, steps = measured(flow.with_settings(gradient=name), batch, case.loss, accumulates=True)
        yield f"{name}, added", steps, added.peak_bytes(steps), found
    yield "flow matching", [0], rehearsal.matching_bytes(batch), measured(flow, batch, matching)[0]
    with torch.no_grad():
        found, steps = measured(flow, batch, planning.mean_nll)
    yield "scored", steps, rehearsal.scoring_bytes(batch), found


def main() -> int:
    """Compare, print the table, and return how it went."""
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(CASES)
    print("| flow | gradient | N | predicted MiB | measured MiB | off by |\n|" + " --- |" * 6)
    worst = 0.0
    for name in chosen:
        for gradient, steps, predicted, found in compared(CASES[name]):
            off = predicted / found - 1
            worst = max(worst, abs(off))
            taken = ", ".join(map(str, sorted(set(steps))))
            cells = [name, gradient, taken, f"{predicted / 2**20:.2f}", f"{found / 2**20:.2f}", f"{off:+.1%}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nThe largest difference is {worst:.1%}.")
    return int(worst > MOST_OFF)


if __name__ == "__main__":
    sys.exit(main())
