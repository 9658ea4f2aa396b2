"""A physical system of your own, learnt from snapshots by `symadj_core` alone: no flow, no service.

A chain of masses and springs with friction: x = (q, p), x' = (J - R) dH/dx, with J canonical and R the friction of the
momenta, at least 0. The energy H is a perceptron, so whatever is learnt, energy is never gained (port-Hamiltonian form:
A. J. van der Schaft and D. Jeltsema, Port-Hamiltonian Systems Theory, 2014). `docs/paper.md` has the paper's two
partial differential equations in this way.

    python examples/dynamics.py
    python examples/dynamics.py --snapshots mine.npy --interval 0.1   # [moments, trajectories, 2 n], q before p
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from symadj_core import IController, solve
from symadj_core.gradients import GRADIENTS
from symadj_core.memory import LiveTensorMeter
from symadj_core.solvers.problem import Stats

MASSES, FRICTION, INTERVAL = 3, 0.1, 0.2
HIDDEN, BATCH, LEARNING_RATE = 32, 64, 3e-2


def chain(t: Tensor, x: Tensor) -> Tensor:
    """dx/dt [B, 2 n] of the true chain, whose springs harden as they are stretched; its ends are loose."""
    q, p = x.chunk(2, dim=-1)
    stretched = q.diff(dim=-1)
    pull = nn.functional.pad(stretched, (0, 1)) - nn.functional.pad(stretched, (1, 0))
    return torch.cat([p, pull - q - q**3 - FRICTION * p], dim=-1)


class EnergyField(nn.Module):
    """dx/dt = (J - R) dH/dx, with H and R learnt. Float64.

    Args:
        size: 2 n, of a state.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.energy = nn.Sequential(
            nn.Linear(size, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)
        ).double()
        self.friction = nn.Parameter(torch.full((size // 2,), -3.0, dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return dx/dt [B, 2 n]; t is not used."""
        slope: Tensor = torch.func.grad(lambda rows: self.energy(rows).sum())(x)
        of_q, of_p = slope.chunk(2, dim=-1)
        return torch.cat([of_p, -of_q - nn.functional.softplus(self.friction) * of_p], dim=-1)


def predict(
    field: Callable[[Tensor, Tensor], Tensor], start: Tensor, times: Tensor, gradient: str = "symplectic"
) -> tuple[Tensor, Stats]:
    """Return the states [T, B, 2 n] at the times [T], and how often the field was used."""
    controller = IController(rtol=1e-5, atol=1e-7)
    solution = solve(field, start, times, solver="dopri5", controller=controller, gradient=gradient)
    return solution.ys, solution.stats


def loss_of(field: EnergyField, before: Tensor, after: Tensor, interval: float, gradient: str) -> tuple[Tensor, Stats]:
    """Return the mean squared error a snapshot ahead, in units of what happens until then; and counts."""
    ys, stats = predict(field, before, torch.tensor([0.0, interval], dtype=torch.float64), gradient)
    return (ys[-1] - after).square().mean() / (after - before).square().mean(), stats


def simulated(trajectories: int, moments: int, seed: int) -> Tensor:
    """Return snapshots [moments, trajectories, 2 n] of the true chain."""
    start = torch.randn(trajectories, 2 * MASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ys, _ = predict(chain, start, INTERVAL * torch.arange(moments, dtype=torch.float64))
    return ys


def train(field: EnergyField, snapshots: Tensor, interval: float, steps: int) -> None:
    """Fit the field to pairs of neighbouring snapshots, by the symplectic adjoint method."""
    before, after = snapshots[:-1].flatten(0, 1), snapshots[1:].flatten(0, 1)
    optimizer = torch.optim.Adam(field.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        drawn = torch.randint(len(before), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss, _ = loss_of(field, before[drawn], after[drawn], interval, "symplectic")
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 5) == 0:
            print(f"step {step}: loss {loss.item():.3g}")


def compare(field: EnergyField, before: Tensor, after: Tensor, interval: float) -> None:
    """Print what each gradient of one loss takes, and how far it is from backpropagation's."""
    reference: Tensor | None = None
    print("gradient       peak of tensors  uses of the field  seconds  distance from backprop's")
    for gradient in sorted(GRADIENTS, key=lambda name: name != "backprop"):
        field.zero_grad()
        began = time.perf_counter()
        with LiveTensorMeter() as meter:
            loss, stats = loss_of(field, before, after, interval, gradient)
            torch.autograd.backward(loss)
        seconds = time.perf_counter() - began
        found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in field.parameters()])
        reference = found if reference is None else reference
        off = float((found - reference).norm() / reference.norm())
        uses = f"{stats.nfe_forward} + {stats.nfe_backward}"
        print(f"{gradient:<14} {meter.peak_bytes / 2**20:>11.2f} MiB  {uses:>17}  {seconds:>7.3f}  {off:.1e}")


def main() -> None:
    """Learn a chain, or the snapshots of a file, and print how well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", help="a .npy of [moments, trajectories, 2 n] values in place of the chain's")
    parser.add_argument("--interval", type=float, default=INTERVAL, help="of time between two snapshots")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.snapshots is None:
        snapshots = simulated(trajectories=40, moments=20, seed=1)
    else:
        snapshots = torch.from_numpy(np.load(given.snapshots).astype(np.float64))
        if snapshots.ndim != 3 or snapshots.shape[-1] % 2 or min(snapshots.shape[:2]) < 2:
            parser.error(
                f"{given.snapshots} holds {[*snapshots.shape]} values, not [moments, trajectories, 2 n]: two moments "
                "and two trajectories at least, and the places q before the momenta p in a state"
            )
    learnt_from, tested = snapshots[:, 1:], snapshots[:, :1]
    field = EnergyField(snapshots.shape[-1])
    train(field, learnt_from, given.interval, given.steps)
    compare(field, snapshots[0], snapshots[1], given.interval)
    with torch.no_grad():
        times = given.interval * torch.arange(len(tested), dtype=torch.float64)
        rollout, _ = predict(field, tested[0], times)
        error, still = ((x - tested).norm() / tested.norm() for x in (rollout, tested[:1].expand_as(tested)))
    print(f"relative error over {len(tested)} snapshots of a trajectory that was not seen: {error:.3f}")
    print(f"and of a prediction that nothing changes: {still:.3f}")


if __name__ == "__main__":
    main()
