"""A system learnt from snapshots: a constant matrix times the gradient of a learnt energy.

The matrix says what the energy does: it is conserved if the matrix is skew, and dissipated if it is negative
semidefinite, whatever was learnt. S. Greydanus, M. Dzamba and J. Yosinski, Hamiltonian Neural Networks, NeurIPS 2019;
for partial differential equations T. Matsubara, A. Ishikawa and T. Yaguchi, Deep Energy-Based Modeling of Discrete-Time
Physics, NeurIPS 2020, whose models in continuous time ("HNN++") are of this form.

It is an example, too: a field of your own, integrated by `symadj_core.solve` between the snapshots, needs no flow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.paper.methods import Method, methods
from benchmarks.paper.pde import PDE, SYSTEMS, simulate
from benchmarks.paper.sizes import Size
from symadj_core import IController, solve
from symadj_core.errors import SolverError
from symadj_core.gradients import GradientMethod
from symadj_core.memory import LiveTensorMeter
from symadj_core.solvers.problem import Stats

__all__ = ["EnergyField", "Learnt", "Lesson", "Study", "learn", "predict", "ratios", "studies", "study"]

SOLVER = "dopri8"
RTOL, ATOL = 1e-6, 1e-7
HIDDEN = 32
LEARNING_RATE = 0.03
# Snapshots ahead, of the long prediction whose gradients are compared.
AHEAD = 10


class EnergyField(nn.Module):
    """u' = A dH/du, with H the integral of an energy density that a perceptron learns.

    The density at a point of the grid depends on the values there and at its two neighbours. Float64.

    Args:
        operator: A [n, n], float64.
        spacing: of the grid.
        hidden: width of the perceptron's two hidden layers.
    """

    def __init__(self, operator: Tensor, spacing: float, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("operator", operator)
        self.spacing = spacing
        self.density = nn.Sequential(
            nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False)
        ).double()

    def energy(self, u: Tensor) -> Tensor:
        """H, [B, n] to [B]."""
        neighbourhoods = torch.stack([u.roll(1, dims=-1), u, u.roll(-1, dims=-1)], dim=-1)
        density: Tensor = self.density(neighbourhoods)
        return self.spacing * density.sum((-2, -1))

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        """Return du/dt, [B, n]; t is not used."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            u = u if u.requires_grad else u.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(u).sum(), u, create_graph=differentiable)
        rate: Tensor = slope / self.spacing @ self.operator.T  # type: ignore[operator]
        return rate


@dataclass(frozen=True)
class Lesson:
    """Pairs of neighbouring snapshots, [P, n] each, and the time between them."""

    before: Tensor
    after: Tensor
    interval: float

    @staticmethod
    def of(snapshots: Tensor, interval: float) -> Lesson:
        """Return all pairs of trajectories [K + 1, B, n]."""
        return Lesson(snapshots[:-1].flatten(0, 1), snapshots[1:].flatten(0, 1), interval)

    def batch(self, size: int, generator: torch.Generator) -> Lesson:
        """Return so many pairs, drawn with replacement."""
        drawn = torch.randint(len(self.before), (size,), generator=generator)
        return Lesson(self.before[drawn], self.after[drawn], self.interval)


def predict(
    field: nn.Module,
    start: Tensor,
    times: Sequence[float],
    gradient: GradientMethod | str = "symplectic",
    *,
    throw: bool = True,
) -> tuple[Tensor, Stats]:
    """Return the states at the times [T, B, n], and counts.

    Raises:
        SolverError: the end was not reached. Without `throw` the states from there on are NaN instead.
    """
    controller = IController(rtol=RTOL, atol=ATOL, max_steps=10_000)
    moments = torch.tensor(times, dtype=torch.float64)
    solution = solve(field, start, moments, solver=SOLVER, controller=controller, gradient=gradient, throw=throw)
    return solution.ys, solution.stats


def loss_of(field: nn.Module, lesson: Lesson, gradient: GradientMethod | str) -> tuple[Tensor, Stats]:
    """Return the mean squared error of the predicted snapshots, in units of what happens between two; and counts."""
    ys, stats = predict(field, lesson.before, [0.0, lesson.interval], gradient)
    change = (lesson.after - lesson.before).square().mean()
    return (ys[-1] - lesson.after).square().mean() / change, stats


class Learner:
    """A field in training with one gradient."""

    def __init__(self, method: Method, pde: PDE, iterations: int) -> None:
        torch.manual_seed(0)
        self.method = method
        self.field = EnergyField(pde.operator, pde.spacing)
        self.optimizer = torch.optim.Adam(self.field.parameters(), lr=LEARNING_RATE)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, iterations)
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.failed = False

    def gradient(self, lesson: Lesson) -> tuple[float, Stats]:
        """Fill the parameters' gradients; return the loss and counts."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, stats = loss_of(self.field, lesson, self.method.gradient)
        torch.autograd.backward(loss)
        return loss.item(), stats

    def step(self, lesson: Lesson) -> None:
        """Take one step of the optimizer; none any more once a solve has failed."""
        if self.failed:
            return
        began = time.perf_counter()
        try:
            loss, _ = self.gradient(lesson)
        except SolverError:
            self.failed = True
            return
        self.optimizer.step()
        self.schedule.step()
        self.seconds.append(time.perf_counter() - began)
        self.losses.append(loss)


@dataclass(frozen=True)
class Learnt:
    """What came of one gradient; None where a solve failed, of the training or of the rollout.

    Attributes:
        label: the gradient's.
        loss: mean of the last ten iterations; 1 is a prediction that nothing changes.
        apart: largest relative difference of the losses from backprop's, over all iterations.
        error: relative error of the rollout at its end, over all test trajectories.
        drift: largest change of the learnt energy along a rollout beyond what the system allows, relative to its range.
        peak: bytes of live tensors in one training step, all methods at the same weights.
        uses: of the field in that step, forward and backward.
        off: distance |g - g'| / |g'| of the gradient from backprop's for a prediction `AHEAD` snapshots ahead, at these
            weights.
        seconds: median of a training step.
    """

    label: str
    loss: float | None
    apart: float | None
    error: float | None
    drift: float | None
    peak: int | None
    uses: int | None
    off: float | None
    seconds: float | None


@dataclass(frozen=True)
class Study:
    """One system, learnt with every gradient.

    Attributes:
        pde: the system.
        learnt: by gradient.
        standstill: error at the end of the rollout of a prediction that nothing changes.
        own_error: that of the reference scheme itself, from twice as many steps.
        steps: accepted steps of dopri8 between two snapshots, at the weights of `peak`.
        truth, rollout: one test trajectory [K + 1, n], by the reference scheme and by the field that the symplectic
            gradient trained.
    """

    pde: PDE
    learnt: Sequence[Learnt]
    standstill: float
    own_error: float
    steps: int
    truth: Tensor
    rollout: Tensor


def relative(u: Tensor, reference: Tensor) -> float:
    """Root of the squared error over all, in units of the reference."""
    return float((u - reference).norm() / reference.norm())


def learn(pde: PDE, size: Size, compared: Sequence[Method]) -> tuple[list[Learner], Lesson]:
    """Train a field with each gradient, from the same weights on the same batches, a step of each in turn."""
    snapshots = simulate(pde, pde.initial(size.trajectories, seed=1), size.snapshots, size.substeps)
    lesson = Lesson.of(snapshots, pde.interval)
    learners = [Learner(method, pde, size.iterations) for method in compared]
    generator = torch.Generator().manual_seed(2)
    for _ in range(size.iterations):
        batch = lesson.batch(size.batch, generator)
        for learner in learners:
            learner.step(batch)
    return learners, lesson


def compared_methods() -> list[Method]:
    """Return the paper's five gradients, ours with both policies that keep all it needs."""
    state = 0  # no budget among them
    return [method for method in methods(state) if not any(word in method.label for word in ("budget", "binomial"))]


def study(pde: PDE, size: Size) -> Study:
    """Simulate a system, learn it with every gradient, and judge each by its rollout."""
    learners, lesson = learn(pde, size, compared_methods())
    start = pde.initial(size.tests, seed=3)
    truth = simulate(pde, start, size.snapshots, size.substeps)
    finer = simulate(pde, start, size.snapshots, 2 * size.substeps)
    by_label = {learner.method.label: learner for learner in learners}
    backprop, ours = by_label["backprop"], by_label["symplectic, keep stages"]
    weights = {name: value.clone() for name, value in ours.field.state_dict().items()}
    batch = lesson.batch(size.batch, torch.Generator().manual_seed(4))
    ahead = min(AHEAD, size.snapshots)
    distant = Lesson(start, truth[ahead], ahead * pde.interval)
    learnt = [_judged(pde, learner, backprop.losses, start, truth) for learner in learners]
    with torch.no_grad():
        rollout, _ = predict(ours.field, start, _times(pde, size.snapshots), throw=False)
    _, stats = ours.gradient(batch)
    for learner in learners:
        learner.field.load_state_dict(weights)
    reference = _gradient(backprop, distant)
    for place, learner in enumerate(learners):
        peak, uses = _cost(learner, batch)
        learnt[place] = replace(learnt[place], peak=peak, uses=uses, off=_off(learner, distant, reference))
    return Study(
        pde=pde,
        learnt=learnt,
        standstill=relative(start, truth[-1]),
        own_error=relative(truth[-1], finer[-1]),
        steps=stats.accepted,
        truth=truth[:, 0],
        rollout=rollout[:, 0],
    )


def _times(pde: PDE, snapshots: int) -> list[float]:
    return [pde.interval * n for n in range(snapshots + 1)]


def _judged(pde: PDE, learner: Learner, reference: Sequence[float], start: Tensor, truth: Tensor) -> Learnt:
    """Return what its training came to, without what a step of it costs at the common weights."""
    found = Learnt(learner.method.label, None, None, None, None, None, None, None, None)
    if learner.failed:
        return found
    with torch.no_grad():
        rollout, _ = predict(learner.field, start, _times(pde, len(truth) - 1), throw=False)
        energies = learner.field.energy(rollout)
    arrived = bool(torch.isfinite(rollout).all())
    return replace(
        found,
        loss=statistics.fmean(learner.losses[-10:]),
        apart=max(abs(a - b) / b for a, b in zip(learner.losses, reference, strict=True)),
        error=relative(rollout[-1], truth[-1]) if arrived else None,
        drift=_drift(pde, energies) if arrived else None,
        seconds=statistics.median(learner.seconds),
    )


def _cost(learner: Learner, batch: Lesson) -> tuple[int | None, int | None]:
    """Return the peak of live tensors in one training step and its uses of the field."""
    learner.optimizer.zero_grad(set_to_none=True)
    try:
        with LiveTensorMeter() as meter:
            _, stats = learner.gradient(batch)
    except SolverError:
        return None, None
    return int(meter.peak_bytes), stats.nfe_forward + stats.nfe_backward


def _gradient(learner: Learner, lesson: Lesson) -> Tensor:
    """Return the gradient of all parameters in one vector."""
    learner.gradient(lesson)
    return torch.cat([p.grad.flatten() for p in learner.field.parameters() if p.grad is not None])


def _off(learner: Learner, lesson: Lesson, reference: Tensor) -> float | None:
    """Return the distance of its gradient from the reference; None where its solve fails."""
    try:
        return relative(_gradient(learner, lesson), reference)
    except SolverError:
        return None


def _drift(pde: PDE, energies: Tensor) -> float:
    """Largest change of the energies [K + 1, B] that the system's matrix does not allow, beside their range."""
    changes = energies[1:] - energies[:-1]
    symmetric = bool((pde.operator == pde.operator.T).all())
    # A dissipative system's energy may fall.
    forbidden = changes.clamp(min=0) if symmetric else (energies - energies[0]).abs()
    return float(forbidden.max() / (energies.max() - energies.min()))


def studies(size: Size) -> list[Study]:
    """Return the study of every system."""
    return [study(system(size.points), size) for system in SYSTEMS]


def ratios(study: Study) -> dict[str, float | None]:
    """Return each gradient's seconds beside those of the symplectic one that keeps stages."""
    (ours,) = (learnt.seconds for learnt in study.learnt if learnt.label == "symplectic, keep stages")
    return {
        learnt.label: None if learnt.seconds is None or ours is None else learnt.seconds / ours
        for learnt in study.learnt
    }
