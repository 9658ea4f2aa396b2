"""Training without a solve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from symadj_core import IController
from symadj_core.flows import Block, Flow, MLPField, PotentialField, ResidualField, flow_matching_loss
from tests.core.systems import Straight


@pytest.mark.parametrize("end_time", [1.0, 2.5])
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_loss_is_zero_where_the_flow_goes_straight_from_data_to_base(blocks: int, end_time: float) -> None:
    shift = torch.tensor([2.0, -1.0])
    x = torch.randn(64, 2)
    flow = Flow([Block(Straight(shift / (blocks * end_time)), end_time=end_time) for _ in range(blocks)], 2)
    loss = flow_matching_loss(flow, x, x + shift, torch.rand(64))
    assert loss.shape == (64,)
    torch.testing.assert_close(loss, torch.zeros(64))
    torch.testing.assert_close(flow.to_base(x), x + shift)


def test_the_loss_of_a_flow_that_stands_still_is_the_distance_whatever_the_blocks() -> None:
    x, z, s = torch.randn(20, 2), torch.randn(20, 2), torch.linspace(0, 0.999, 20)
    for blocks in (1, 4):
        flow = Flow([Block(MLPField(2, (4,), zero_init=True), end_time=0.5) for _ in range(blocks)], 2)
        torch.testing.assert_close(flow_matching_loss(flow, x, z, s), (z - x).square().mean(-1))


def test_every_block_sees_its_own_time_from_zero_to_its_end() -> None:
    seen: list[list[float]] = [[], []]

    class Watched(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number, self.scale = number, nn.Parameter(torch.ones(()))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            seen[self.number] += t.tolist()
            return self.scale * y

    flow = Flow([Block(Watched(0), end_time=1.0), Block(Watched(1), end_time=3.0)], 2)
    flow_matching_loss(flow, torch.zeros(4, 2), torch.ones(4, 2), torch.tensor([0.0, 0.25, 0.5, 0.75]))
    assert seen == [[0.0, 0.5], [0.0, 1.5]]


def test_training_by_flow_matching_finds_the_flow_that_likelihood_finds() -> None:
    torch.manual_seed(0)
    flow = Flow([Block(MLPField(2, (16,)), controller=IController(rtol=1e-2, atol=1e-3)) for _ in range(2)], 2)
    target = torch.distributions.Normal(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.5]))
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(400):
        optimiser.zero_grad()
        x = target.sample((256,))
        flow_matching_loss(flow, x, torch.randn_like(x), torch.rand(256)).mean().backward()
        optimiser.step()
    x = target.sample((2000,))
    with torch.no_grad():
        reached = -flow.with_settings(divergence="exact")(x).mean()
    assert float(reached) < float(-target.log_prob(x).sum(-1).mean()) + 0.15


@pytest.mark.usefixtures("process_group")
def test_ddp_finds_gradients_for_blocks_that_no_sample_falls_into() -> None:
    class Objective(nn.Module):
        def __init__(self, flow: Flow) -> None:
            super().__init__()
            self.flow = flow

        def forward(self, *arguments: Tensor) -> Tensor:
            return flow_matching_loss(self.flow, *arguments)

    flow = Flow([Block(MLPField(2, (4,)), learn_end_time=True) for _ in range(3)], 2)
    parallel = DistributedDataParallel(Objective(flow))
    x, z = torch.randn(5, 2), torch.randn(5, 2)
    for _ in range(2):
        parallel(x, z, torch.full((5,), 0.1)).mean().backward()
    first, *others = flow.stack()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in first.parameters())
    assert all(p.grad is not None and bool((p.grad == 0).all()) for block in others for p in block.parameters())


@pytest.mark.parametrize("make", [MLPField, ResidualField, PotentialField])
def test_every_field_takes_contexts_and_a_reduced_precision_in_flow_matching(make: Any) -> None:
    flow = Flow([Block(make(2, context_dim=3), field_dtype=torch.bfloat16) for _ in range(2)], 2)
    loss = flow_matching_loss(flow, torch.randn(8, 2), torch.randn(8, 2), torch.rand(8), torch.randn(8, 3))
    assert loss.dtype == torch.float32
    loss.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in flow.parameters())


def test_shapes_that_do_not_fit_are_refused() -> None:
    flow, x = Flow([Block(MLPField(2))], 2), torch.randn(4, 2)
    for arguments in ((x, x[:3], torch.rand(4)), (x, x, torch.rand(3)), (x[0], x[0], torch.rand(()))):
        with pytest.raises(ValueError, match="expected x and z"):
            flow_matching_loss(flow, *arguments)
