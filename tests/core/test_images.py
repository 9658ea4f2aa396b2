"""Flows of images: the convolutional field, and the levels of a multiscale flow."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from symadj_core import IController
from symadj_core.flows import (
    Block,
    ConvField,
    Flow,
    HutchPlusPlus,
    MLPField,
    PartialBlock,
    flow_matching_loss,
    multiscale_flow,
    scales,
)
from tests.core.systems import EXACT_GRADIENTS, Straight, gradient_of, relative_error

Shape = tuple[int, int, int]
SHAPE = (1, 4, 4)


def double(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny(shape: Shape = SHAPE, *, levels: int = 2, blocks: int = 1, field: Any = None, **options: Any) -> Flow:
    torch.manual_seed(3)
    controller = options.pop("controller", IController(rtol=1e-3, atol=1e-4))
    made = multiscale_flow(
        shape,
        lambda part: ConvField(part, (5,), **(field or {})),
        levels=levels,
        blocks=blocks,
        controller=controller,
        **options,
    )
    return made.double()


# ------------------------------------------------------------------------------------------------------------ field


@pytest.mark.parametrize("time", ["concat", "concatsquash", "fourier"])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_images_may_have_times_of_their_own(time: Any, context_dim: int) -> None:
    field = ConvField((2, 3, 4), (5, 6), time=time, activation="silu", context_dim=context_dim).double()
    y, t = double(4, 24), torch.linspace(0, 1, 4, dtype=torch.float64)
    context = double(4, 2, seed=2) if context_dim else None
    rows = [(t[n], y[n : n + 1], None if context is None else context[n : n + 1]) for n in range(4)]
    torch.testing.assert_close(field(t, y, context), torch.cat([field(*row) for row in rows]))


def test_the_field_sees_each_pixel_beside_its_neighbours_in_the_image() -> None:
    field = ConvField((2, 5, 6), ()).double()
    jacobian = torch.autograd.functional.jacobian(lambda y: field(torch.tensor(0.5), y[None])[0], double(60))
    touched = (jacobian[2 * 6 + 3] != 0).view(2, 5, 6)
    expected = torch.zeros(2, 5, 6, dtype=torch.bool)
    expected[:, 1:4, 2:5] = True
    assert torch.equal(touched, expected)


def test_the_context_reaches_every_pixel_and_its_width_is_checked() -> None:
    field = ConvField((1, 3, 3), (4,), context_dim=2).double()
    y, t = double(2, 9), torch.tensor(0.1, dtype=torch.float64)
    assert bool((field(t, y, double(2, 2, seed=2)) != field(t, y, double(2, 2, seed=3))).all())
    for context in (None, double(2, 3), double(1, 2)):
        with pytest.raises(ValueError, match="expected a context"):
            field(t, y, context)


@pytest.mark.parametrize(
    "options", [{"shape": (0, 4, 4)}, {"hidden": (4, 0)}, {"time": "film"}, {"activation": "relu"}, {"context_dim": -1}]
)
def test_what_makes_no_field_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|unknown"):
        ConvField(**{"shape": SHAPE, **options})


# ----------------------------------------------------------------------------------------------------------- levels


@given(
    channels=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    levels=st.integers(1, 4),
)
def test_levels_see_entries_once_in_nested_halves_of_whole_pixels(
    channels: int, height: int, width: int, levels: int
) -> None:
    factor = 2 ** (levels - 1)
    shape = (channels, height * factor, width * factor)
    seen = scales(shape, levels)
    assert len(seen) == 2 * levels - 1
    assert torch.equal(seen[0].flatten(), torch.arange(math.prod(shape)))
    for n in range(0, len(seen) - 1, 2):
        plain, squeezed, kept = seen[n : n + 3]
        c, h, w = plain.shape
        assert squeezed.shape == (4 * c, h // 2, w // 2)
        # The four channels of a pixel are a square of the image before.
        back = squeezed.view(c, 2, 2, h // 2, w // 2).permute(0, 3, 1, 4, 2).reshape(c, h, w)
        assert torch.equal(back, plain)
        assert torch.equal(kept, squeezed[: 2 * c])
    for image in seen:
        assert len(image.unique()) == image.numel()


@pytest.mark.parametrize(("shape", "levels", "most"), [((1, 28, 28), 4, 3), ((3, 32, 24), 5, 4), ((1, 7, 8), 2, 1)])
def test_sizes_that_can_not_be_halved_often_enough_are_refused_with_the_numbers(
    shape: Shape, levels: int, most: int
) -> None:
    with pytest.raises(ValueError, match=rf"{shape[1]} x {shape[2]} .* {levels - 1} times.*at most levels {most}"):
        scales(shape, levels)
    assert scales(shape, most)


def test_no_levels_and_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="levels 0"):
        scales(SHAPE, 0)
    with pytest.raises(ValueError, match="at least one block"):
        tiny(blocks=0)


@pytest.mark.parametrize("entries", [[0, 2, 2], [0, 1, 4], [-1, 0, 1], [0, 1]])
def test_entries_that_a_block_can_not_move_are_refused(entries: list[int]) -> None:
    with pytest.raises(ValueError, match=r"entries"):
        Flow([PartialBlock(MLPField(3), torch.tensor(entries))], 4)


def test_each_level_leaves_half_of_what_it_was_given() -> None:
    flow, x = tiny((1, 8, 8), levels=3), double(2, 64)
    with torch.no_grad():
        z = flow.to_base(x)
        changed = []
        for block in flow.stack():
            y = block.carry(x, inverse=False).states
            changed.append(int((y != x).any(0).sum()))
    assert changed == [64, 64, 32, 32, 16]
    assert bool((z != x).all())


# ------------------------------------------------------------------------------------------------------------- flow


def test_from_base_inverts_to_base() -> None:
    flow, x = tiny((2, 4, 4), blocks=2, controller=IController(rtol=1e-9, atol=1e-9)), double(3, 32)
    torch.testing.assert_close(flow.from_base(flow.to_base(x)), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_log_prob_is_the_change_of_variables_by_the_whole_jacobian(levels: int) -> None:
    flow = tiny(levels=levels, divergence="exact", controller=IController(rtol=1e-6, atol=1e-7))
    x = double(16)
    z = flow.to_base(x)
    jacobian = torch.autograd.functional.jacobian(flow.to_base, x)
    expected = -0.5 * (z.square().sum() + 16 * math.log(2 * math.pi)) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-5, atol=1e-5)


def test_samples_come_with_the_likelihood_that_they_have() -> None:
    flow = tiny(divergence="exact", controller=IController(rtol=1e-9, atol=1e-9))
    x, log_prob = flow.sample_and_log_prob((3, 2))
    assert x.shape == (3, 2, 16)
    assert flow.sample((5,)).shape == (5, 16)
    assert flow.rsample((5,)).requires_grad
    torch.testing.assert_close(flow(x), log_prob, rtol=1e-6, atol=1e-6)


def test_trajectories_pass_through_data_and_base() -> None:
    flow, x = tiny(blocks=2, controller=IController(rtol=1e-9, atol=1e-9)), double(3, 16)
    t = torch.tensor([0.0, 0.7, 2.0, 4.5, 6.0])
    there = flow.transport(x, t)
    assert there.shape == (5, 3, 16)
    torch.testing.assert_close(there[-1], flow.to_base(x), rtol=1e-6, atol=1e-6)
    back = flow.transport(there[-1], t.flip(0))
    torch.testing.assert_close(back.flip(0), there, rtol=1e-6, atol=1e-6)
    factored_out = scales(SHAPE, 2)[1][2:].flatten()
    assert torch.equal(there[3][:, factored_out], there[4][:, factored_out])


@pytest.mark.parametrize("gradient", [*EXACT_GRADIENTS, "adjoint"])
def test_gradients_equal_those_of_backprop(gradient: str) -> None:
    exact = gradient != "adjoint"
    solved = {"controller": IController(rtol=1e-3, atol=1e-4) if exact else IController(rtol=1e-7, atol=1e-8)}
    grads = []
    for name in (gradient, "backprop"):
        flow = tiny(learn_end_time=exact, field={"time": "concatsquash"}, gradient=gradient_of(name), **solved)
        x = double(3, 16).requires_grad_()
        log_prob, costs = flow.regularised_log_prob(x, seed=1, regularisers=["kinetic", "jacobian_frobenius"])
        (log_prob.sum() + sum(cost.sum() for cost in costs.values())).backward()
        grads.append([p.grad for p in (x, *flow.parameters()) if p.grad is not None])
        assert len(grads[-1]) == len(list(flow.parameters())) + 1
    assert relative_error(*grads) < (1e-11 if exact else 1e-4)


@pytest.mark.usefixtures("process_group")
def test_ddp_around_the_flow_finds_all_gradients() -> None:
    flow, x = tiny(blocks=2), double(4, 16)
    flow(x, seed=1, step=2).mean().backward()
    expected = [p.grad.clone() for p in flow.parameters() if p.grad is not None]
    flow.zero_grad()
    parallel = DistributedDataParallel(flow)
    for _ in range(2):
        flow.zero_grad()
        parallel(x, seed=1, step=2).mean().backward()
        found = [p.grad for p in flow.parameters() if p.grad is not None]
        assert relative_error(found, expected) < 1e-12


def test_another_way_to_solve_it_shares_the_weights_and_the_levels() -> None:
    flow, x = tiny(), double(3, 16)
    exact = flow.with_settings(divergence="exact", rtol=1e-6, atol=1e-6, full_precision=True)
    assert [p.data_ptr() for p in exact.parameters()] == [p.data_ptr() for p in flow.parameters()]
    assert {block.settings.divergence.name for block in exact.stack()} == {"exact"}
    torch.testing.assert_close(exact.to_base(x), flow.to_base(x), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="must be below the dimension 8"):
        flow.with_settings(divergence=HutchPlusPlus(probes=9))


def test_estimates_of_the_divergence_have_the_exact_one_as_their_mean() -> None:
    flow, x = tiny(), double(1, 16).expand(4000, -1)
    with torch.no_grad():
        estimates, exact = flow(x, seed=0), flow.with_settings(divergence="exact")(x[:1])
    assert abs(float(estimates.mean() - exact)) < 5 * float(estimates.std()) / math.sqrt(4000)


def test_a_flow_that_starts_at_zero_is_the_identity_and_leaves_it() -> None:
    flow, x = tiny(field={"zero_init": True}), double(8, 16)
    torch.testing.assert_close(flow.to_base(x), x)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = -flow(3 * x, seed=0).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_flows_of_images_are_copied_pickled_and_loaded_by_their_weights_alone() -> None:
    flow, x = tiny(), double(2, 16)
    expected = flow(x, seed=0)
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(twin(x, seed=0), expected)
    assert set(flow.state_dict()) == {name for name, _ in flow.named_parameters()}
    other = tiny()
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other(x, seed=0), expected)


def test_a_conditional_flow_of_images_is_a_distribution_for_each_context() -> None:
    flow = tiny(field={"context_dim": 2})
    given_classes = flow.condition(double(3, 2, seed=4))
    assert given_classes.sample((5,)).shape == (5, 3, 16)
    assert given_classes.log_prob(double(3, 16)).shape == (3,)


def test_one_level_is_a_plain_stack() -> None:
    torch.manual_seed(0)
    fields = [ConvField(SHAPE, (4,)).double() for _ in range(2)]
    queue = list(fields)
    one_level = multiscale_flow(SHAPE, lambda _: queue.pop(0), levels=1, blocks=2)
    stack, x = Flow([Block(field) for field in fields], 16), double(3, 16)
    torch.testing.assert_close(one_level(x, seed=0), stack(x, seed=0))


def test_a_reduced_precision_stays_within_the_convolutions() -> None:
    torch.manual_seed(0)
    flow = multiscale_flow(SHAPE, lambda part: ConvField(part, (5,)), levels=2, blocks=1, field_dtype=torch.bfloat16)
    x = torch.randn(4, 16)
    log_prob = flow.with_settings(rtol=1e-2, atol=1e-2)(x, seed=0)
    assert log_prob.dtype == torch.float32
    log_prob.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in flow.parameters())


# ---------------------------------------------------------------------------------------------------- flow matching


def test_flow_matching_fits_straight_paths_that_each_end_with_the_last_block_that_moves_them() -> None:
    images, end_time = [image.flatten() for image in scales(SHAPE, 2)], 1.5
    moved_by = torch.stack([torch.zeros(16).index_fill(0, image, 1.0) for image in images]).sum(0)
    assert sorted(moved_by.tolist()) == [2.0] * 8 + [3.0] * 8
    shift, x, s = torch.linspace(-2, 2, 16), torch.randn(30, 16), torch.linspace(0, 0.999, 30)
    speed = shift / (moved_by * end_time)
    flow = Flow([PartialBlock(Straight(speed[image]), image, end_time=end_time) for image in images], 16)
    torch.testing.assert_close(flow.to_base(x), x + shift)
    loss = flow_matching_loss(flow, x, x + shift, s)
    torch.testing.assert_close(loss, torch.zeros(30))
    with torch.no_grad():
        for p in flow.parameters():
            p.zero_()
    still = flow_matching_loss(flow, x, x + 3.0, s)
    torch.testing.assert_close(still, torch.full((30,), 9.0))


def test_flow_matching_of_images_gives_every_weight_a_gradient() -> None:
    flow, x = tiny(learn_end_time=True), double(3, 16)
    # No sample falls into the last block.
    loss = flow_matching_loss(flow, x, double(3, 16, seed=2), torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64))
    loss.mean().backward()
    *others, last = flow.stack()
    assert all(
        p.grad is not None and bool(p.grad.abs().sum() > 0) for block in others for p in block.field.parameters()
    )
    assert all(p.grad is not None and bool((p.grad == 0).all()) for p in last.parameters())
