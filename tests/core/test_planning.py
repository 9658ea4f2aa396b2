"""What a training step is said to take in memory, beside what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.planning import MOST_OFF, Case, compared, measured, regularised
from symadj_core import FixedStep, IController, planning
from symadj_core.flows import Block, Flow, MLPField
from symadj_core.flows.fields.base import VectorField
from symadj_core.gradients import GRADIENTS
from symadj_core.solvers.controller import EvenGrid

SIX_STEPS = FixedStep(grid=EvenGrid(6))


class Wide(VectorField):
    """Its matrices are so large that a rehearsal takes their products as known; it writes into what they return."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.into, self.out = torch.nn.Linear(dim, 8_000), torch.nn.Linear(8_000, dim)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        moved: Tensor = self.out(self.into(y).mul_(3.0).tanh_())
        centred = moved - moved.mean()
        return centred / centred.norm(dim=-1, keepdim=True)


CASES = {
    "adaptive": Case("", lambda: Flow(Block(MLPField(3, (8,)), solver="bosh3", controller=IController(1e-4)), 3), 50),
    "several blocks alike": Case(
        "",
        lambda: Flow(
            [
                Block(MLPField(2, (8,), context_dim=1), solver="midpoint", controller=SIX_STEPS, learn_end_time=True)
                for _ in range(3)
            ],
            2,
        ),
        40,
    ),
    # The weights are as large as what so many rows of a rehearsal make.
    "as many columns as rows": Case(
        "", lambda: Flow(Block(MLPField(11, (11, 11, 11)), solver="midpoint", controller=SIX_STEPS), 11), 200
    ),
    "wide": Case("", lambda: Flow(Block(Wide(6), solver="heun2", controller=SIX_STEPS), 6), 30),
    "regularised": Case(
        "",
        lambda: Flow(Block(MLPField(4, (8,)), solver="heun2", controller=SIX_STEPS, divergence="hutchinson"), 4),
        40,
        regularised,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_peak_of_every_gradient_is_forecast_within_a_tenth(name: str) -> None:
    for gradient, steps, predicted, found in compared(CASES[name]):
        assert predicted == pytest.approx(found, rel=MOST_OFF), f"{gradient}, steps {steps}"


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_where_an_allocator_rounds_every_state_that_is_kept_is_a_block_of_its_own(gradient: str) -> None:
    blocks = [Block(MLPField(3, (7,)), solver="midpoint", controller=SIX_STEPS) for _ in range(2)]
    rehearsal = planning.Rehearsal(Flow(blocks, 3))
    host, device = (rehearsal.forecast(gradient, 5, rounding=size) for size in (1, planning.DEVICE_ROUNDING))
    for part, rounded in zip(host.parts, device.parts, strict=True):
        assert rounded.fixed_bytes >= part.fixed_bytes
        assert sum(held.step_bytes for held in rounded.held) >= sum(held.step_bytes for held in part.held)
    assert device.peak_bytes(10) % planning.DEVICE_ROUNDING == 0


def test_a_forecast_leaves_the_flow_and_the_generator_as_they_were() -> None:
    flow = Flow(Block(MLPField(3, (7,)), solver="bosh3", learn_end_time=True), 3)
    before, generator = [p.clone() for p in flow.parameters()], torch.get_rng_state()
    planning.forecast(flow, 5, gradient="aca")
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(flow.parameters(), before, strict=True))
    flow.log_prob(torch.zeros(2, 3)).sum().backward()


class Drawing(VectorField):
    """Draws random numbers at every use."""

    def __init__(self) -> None:
        super().__init__(3)
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.dropout(self.layer(y), 0.5)


def test_a_field_that_draws_random_numbers_is_forecast_too() -> None:
    """Each of its uses draws, in a rehearsal too: none is taken as known from another block."""
    field = Drawing()
    few = FixedStep(grid=EvenGrid(2))
    flow = Flow([Block(field, solver=solver, controller=few) for solver in ("heun2", "dopri5")], 3)
    found, steps = measured(flow, 40, planning.mean_nll)
    assert planning.forecast(flow, 40).peak_bytes(steps) == pytest.approx(found, rel=MOST_OFF)


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 row, not 0"):
        planning.forecast(Flow(Block(MLPField(3, (7,)), solver="midpoint", controller=SIX_STEPS), 3), 0)
