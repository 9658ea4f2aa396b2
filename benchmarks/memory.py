"""Memory against the number of steps: every gradient of symadj_core, and torchdiffeq's two.

``python -m benchmarks.memory [--plot docs/memory.png]``. One CNF block, solved by the classic Runge-Kutta method with N
equal steps. The figure is the exact peak of live tensor storage in one training step, weights and data not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torchdiffeq import odeint, odeint_adjoint

from benchmarks.peers.torch_field import Augmented, fields, log_normal
from benchmarks.problem import Problem, Size
from benchmarks.table import table
from symadj_core import controllers, gradients
from symadj_core.flows import Block, Flow
from symadj_core.memory import LiveTensorMeter

SIZE = Size(dim=43, hidden=(128, 128), blocks=1, batch=100)
STEPS = (8, 32, 128, 512)
KEEP = {
    "symplectic, keep stages": "stages",
    "symplectic, keep steps": "steps",
    "symplectic, keep binomial(8)": "binomial(8)",
}


def symadj_step(problem: Problem, steps: int, name: str, keep: str | None) -> Callable[[], torch.Tensor]:
    """Return a function that makes the loss of a symadj flow."""
    options = {} if keep is None else {"keep": keep}
    controller = controllers.by_name("fixed", step_size=1.0 / steps)
    (field,) = fields(problem)
    gradient = gradients.by_name(name, **options)
    block = Block(field, solver="rk4", controller=controller, gradient=gradient, divergence="hutchinson")
    flow = Flow([block], problem.size.dim)
    data = torch.from_numpy(problem.data)
    return lambda: -flow(data, seed=0).mean()


def torchdiffeq_step(problem: Problem, steps: int, adjoint: bool) -> Callable[[], torch.Tensor]:
    """Return a function that makes the same loss by torchdiffeq."""
    (field,) = fields(problem)
    block = Augmented(field, torch.from_numpy(problem.probes[0]))
    solve = odeint_adjoint if adjoint else odeint
    data = torch.from_numpy(problem.data)
    times = torch.tensor([0.0, 1.0])

    def loss() -> torch.Tensor:
        state = (data, torch.zeros(len(data)))
        ys, log_dets = solve(block, state, times, method="rk4", options={"step_size": 1.0 / steps})
        return -(log_normal(ys[-1]) + log_dets[-1]).mean()

    return loss


def contenders() -> dict[str, Callable[[Problem, int], Callable[[], torch.Tensor]]]:
    """Return all methods, those that need most memory first."""
    methods: dict[str, Callable[[Problem, int], Callable[[], torch.Tensor]]] = {
        "torchdiffeq odeint": partial(torchdiffeq_step, adjoint=False)
    }
    for name in ("backprop", "onecheckpoint", "aca"):
        methods[name] = partial(symadj_step, name=name, keep=None)
    for label, keep in KEEP.items():
        methods[label] = partial(symadj_step, name="symplectic", keep=keep)
    methods["adjoint"] = partial(symadj_step, name="adjoint", keep=None)
    methods["torchdiffeq odeint_adjoint"] = partial(torchdiffeq_step, adjoint=True)
    return methods


def peak_bytes(make_loss: Callable[[], torch.Tensor]) -> int:
    """Return the peak of one training step, after one that warms up."""
    make_loss().backward()
    with LiveTensorMeter() as meter:
        make_loss().backward()
    return meter.peak_bytes


def main() -> None:
    """Measure, print the table, and draw it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="also draw the table to this PNG")
    plot = parser.parse_args().plot
    torch.set_num_threads(1)
    problem = Problem.of(SIZE)
    print(f"Peak MiB of one training step; D {SIZE.dim}, hidden {SIZE.hidden}, batch {SIZE.batch}, rk4 with N steps")
    peaks: dict[str, list[float]] = {}

    def rows() -> Iterator[Sequence[str]]:
        for label, make in contenders().items():
            peaks[label] = [peak_bytes(make(problem, steps)) / 2**20 for steps in STEPS]
            yield label, *(f"{mib:.1f}" for mib in peaks[label])

    for line in table(["method", *(f"N = {n}" for n in STEPS)], rows()):
        print(line, flush=True)
    if plot is not None:
        draw(peaks, plot)


def draw(peaks: dict[str, list[float]], target: Path) -> None:
    """Draw the table, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for label, values in peaks.items():
        peer = label.startswith("torchdiffeq")
        axes.plot(STEPS, values, "o--" if peer else "o-", color="0.5" if peer else None, label=label, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(STEPS, [str(n) for n in STEPS])
    axes.set_xlabel("steps N of the solve (rk4)")
    axes.set_ylabel("peak of live tensors, MiB")
    axes.set_title(f"One training step of a CNF block: D {SIZE.dim}, hidden {SIZE.hidden}, batch {SIZE.batch}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
