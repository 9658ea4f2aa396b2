"""A flow as a distribution: conditions, samples, trajectories, end times."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    MixtureSameFamily,
    TransformedDistribution,
)

from symadj_core import FixedStep, IController
from symadj_core.flows import (
    DIVERGENCES,
    Block,
    Exact,
    Flow,
    Hutchinson,
    MLPField,
    PotentialField,
    ResidualField,
)
from tests.core.systems import EXACT_GRADIENTS, gradient_of

TIGHT = IController(rtol=1e-9, atol=1e-10)


def double(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_of(end_times: tuple[float, ...] = (1.0, 1.0), context_dim: int = 0, learn_end_time: bool = False) -> Flow:
    torch.manual_seed(3)
    blocks = [
        Block(
            MLPField(3, (8, 8), context_dim=context_dim),
            end_time=end,
            learn_end_time=learn_end_time,
            divergence="exact",
            controller=TIGHT,
        )
        for end in end_times
    ]
    return Flow(blocks, 3).double()


def test_a_conditioned_flow_is_a_distribution_for_every_context() -> None:
    flow, contexts = flow_of(context_dim=2), double(4, 2, seed=2)
    given_all = flow.condition(contexts)
    assert isinstance(given_all, Distribution)
    assert given_all.batch_shape == (4,)
    assert given_all.event_shape == (3,)
    x = double(5, 4, 3)
    log_prob = given_all.log_prob(x)
    assert log_prob.shape == (5, 4)
    for n in range(4):
        torch.testing.assert_close(log_prob[:, n], flow.condition(contexts[n]).log_prob(x[:, n]))
    assert not torch.allclose(flow(x[:, 0], context=contexts[0]), flow(x[:, 0], context=contexts[1]))


def test_samples_given_contexts_have_the_log_prob_that_comes_with_them() -> None:
    flow = flow_of(context_dim=2)
    given_two = flow.condition(double(2, 2, seed=2).requires_grad_())
    x, log_prob = given_two.sample_and_log_prob((5,))
    assert x.shape == (5, 2, 3)
    torch.testing.assert_close(given_two.log_prob(x), log_prob, rtol=1e-6, atol=1e-6)
    assert given_two.sample((7,)).shape == (7, 2, 3)
    torch.testing.assert_close(flow.log_prob(x, given_two.context), given_two.log_prob(x))
    assert flow.sample((7, 2), given_two.context).shape == (7, 2, 3)
    assert not given_two.sample().requires_grad
    given_two.rsample((3,)).sum().backward()
    assert given_two.context.grad is not None


def test_values_and_contexts_are_broadcast_against_each_other() -> None:
    flow, contexts, x = flow_of(context_dim=2), double(5, 2, seed=2), double(4, 3)
    given_five = flow.condition(contexts)
    everything = given_five.log_prob(x[:, None])
    assert everything.shape == (4, 5)
    torch.testing.assert_close(given_five.log_prob(x[1]), everything[1])
    mixture = MixtureSameFamily(Categorical(torch.ones(5, dtype=torch.float64)), given_five)
    torch.testing.assert_close(mixture.log_prob(x), everything.logsumexp(1) - math.log(5))
    for value in (x, x[0, 0], x[:, :2]):
        with pytest.raises(ValueError, match=r"does not broadcast to the batch \[5\]|expected \[\.\.\., 3\]"):
            given_five.log_prob(value)
    with pytest.raises(ValueError, match=r"context \[5, 2\] does not broadcast to \[4, 2\]"):
        flow(x, context=contexts)


def test_distributions_are_expanded_to_a_batch() -> None:
    flow, given_two, x = flow_of(), flow_of(context_dim=2).condition(double(2, 2, seed=2)), double(7, 2, 3)
    expanded = given_two.expand((7, 2))
    assert (expanded.batch_shape, expanded.event_shape) == ((7, 2), (3,))
    torch.testing.assert_close(expanded.log_prob(x), given_two.log_prob(x))
    many = flow.expand((7, 2))
    assert many.batch_shape == (7, 2)
    torch.testing.assert_close(many.log_prob(x), flow(x))
    assert many.expand((5, 7, 2)).sample((4,)).shape == (4, 5, 7, 2, 3)
    shift, scale = double(7, 2, 3), double(7, 2, 3, seed=2).exp()
    moved = TransformedDistribution(flow, [AffineTransform(shift, scale, event_dim=1)])
    torch.testing.assert_close(moved.log_prob(shift + scale * x), flow(x) - scale.log().sum(-1))
    with pytest.raises(ValueError, match="expected a context"):
        flow_of(context_dim=2).expand((7,))


@pytest.mark.parametrize("field", [MLPField, ResidualField, PotentialField])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_flows_work_in_inference_mode(field: Any, divergence: str) -> None:
    flow = Flow([Block(field(3, context_dim=2), divergence=divergence, learn_end_time=True)], 3)
    with torch.inference_mode():
        x, context = torch.randn(4, 3), torch.randn(4, 2)
        inferred = flow(x, seed=0, context=context)
        flow.condition(context).sample_and_log_prob((2,))
        x, context = x.tolist(), context.tolist()
    torch.testing.assert_close(inferred, flow(torch.tensor(x), seed=0, context=torch.tensor(context)).detach())


def test_a_flow_without_weights_is_sampled() -> None:
    class Decay(torch.nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y

    x, log_prob = Flow([Block(Decay(), divergence="exact")], 2).sample_and_log_prob((5,))
    normal = torch.distributions.Normal(0.0, math.e)
    torch.testing.assert_close(log_prob, normal.log_prob(x).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 3), "states are torch.float32 on cpu and the weights torch.float64"),
        (torch.zeros(2, 3, dtype=torch.float64, device="meta"), "states are torch.float64 on meta"),
        (torch.zeros(2, 3, dtype=torch.int64), "floating point tensor, got torch.int64"),
        (torch.zeros(2, 3).numpy(), "floating point tensor, got ndarray"),
    ],
)
def test_values_of_another_kind_than_the_weights_are_refused_by_name(x: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        flow_of().log_prob(x)


def test_the_density_given_a_context_integrates_to_one() -> None:
    torch.manual_seed(0)
    flow = Flow([Block(MLPField(1, (8,), context_dim=1), divergence="exact", controller=TIGHT)], 1).double()
    x = torch.linspace(-30, 30, 3001, dtype=torch.float64)[:, None]
    for context in (-2.0, 3.0):
        with torch.no_grad():
            density = flow.condition(torch.tensor([context], dtype=torch.float64)).log_prob(x).exp()
        assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-5)


def test_trajectories_pass_through_the_blocks_from_data_to_base_and_back() -> None:
    flow, x = flow_of((1.0, 0.5, 2.0)), double(2, 4, 3)
    t = torch.tensor([0.0, 0.3, 1.0, 1.2, 1.5, 3.5])
    there = flow.transport(x, t)
    assert there.shape == (6, 2, 4, 3)
    assert torch.equal(there[0], x)
    torch.testing.assert_close(there[-1], flow.to_base(x), rtol=1e-7, atol=1e-7)
    back = flow.transport(there[-1], t.flip(0))
    torch.testing.assert_close(back.flip(0), there, rtol=1e-6, atol=1e-6)
    assert flow.last_stats.accepted > 0


@settings(max_examples=20, deadline=None)
@given(times=st.lists(st.integers(0, 7), min_size=2, max_size=6, unique=True), forward=st.booleans())
def test_trajectories_over_any_times_are_pieces_of_one_trajectory(times: list[int], forward: bool) -> None:
    flow, x = flow_of((1.0, 0.5, 2.0)), double(2, 3)
    whole = flow.transport(x, torch.linspace(0, 3.5, 8))
    order = sorted(times, reverse=not forward)
    piece = flow.transport(whole[order[0]], 0.5 * torch.tensor(order, dtype=torch.float32))
    torch.testing.assert_close(piece, whole[order], rtol=1e-6, atol=1e-6)


def test_trajectories_are_differentiable_and_know_contexts() -> None:
    flow, x, context = flow_of(context_dim=2), double(4, 3).requires_grad_(), double(4, 2, seed=2).requires_grad_()
    path = flow.transport(x, torch.tensor([0.0, 0.5, 2.0]), context)
    path[1:].sum().backward()
    assert all(p.grad is not None for p in (x, context, *flow.parameters()))


@pytest.mark.parametrize("t", [[0.0], [0.0, 0.0], [0.0, 1.0, 0.5], [-0.1, 1.0], [0.0, 2.1]])
def test_times_outside_the_flow_or_out_of_order_are_refused(t: list[float]) -> None:
    with pytest.raises(ValueError, match="t must"):
        flow_of().transport(double(2, 3), torch.tensor(t))


@pytest.mark.parametrize("gradient", [*EXACT_GRADIENTS, "backprop"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_the_gradient_of_a_learnt_end_time_is_that_of_finite_differences(gradient: str, divergence: str) -> None:
    flow = flow_of((0.8, 1.3), learn_end_time=True).with_settings(
        gradient=gradient_of(gradient), divergence=divergence, solver="rk4", controller=FixedStep()
    )
    x = double(6, 3)
    flow(x, seed=0).sum().backward()
    for block in flow.stack():
        assert isinstance(block.end_time, torch.nn.Parameter)
        values = []
        for move in (1e-5, -1e-5):
            with torch.no_grad():
                block.end_time.add_(move)
                values.append(float(flow(x, seed=0).sum()))
                block.end_time.sub_(move)
        assert block.end_time.grad is not None
        assert float(block.end_time.grad) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_the_continuous_adjoint_differentiates_the_end_time_of_a_field_without_closed_form() -> None:
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def gradient(method: str) -> float:
        torch.manual_seed(0)
        block = Block(
            ResidualField(3, 8, 1),
            learn_end_time=True,
            divergence="exact",
            controller=IController(rtol=1e-9, atol=1e-10),
            gradient=method,
        )
        flow = Flow([block], 3).double()
        flow(x, seed=0).sum().backward()
        end_time = block.end_time
        assert isinstance(end_time, torch.nn.Parameter)
        assert end_time.grad is not None
        return float(end_time.grad)

    assert gradient("adjoint") == pytest.approx(gradient("backprop"), rel=1e-6)


@pytest.mark.parametrize(
    ("field", "free"),
    [
        (lambda: MLPField(3, 8), True),
        (lambda: MLPField(3, (8, 8)), True),
        (lambda: MLPField(3, (8, 8, 8)), False),
        (lambda: ResidualField(3, 8), False),
        (lambda: nn.Identity(), False),
    ],
)
def test_the_exact_divergence_is_the_default_where_it_is_free(field: Any, free: bool) -> None:
    made = Block(field())
    assert made.settings.divergence == (Exact() if free else Hutchinson())
    # In reduced precision there is no closed form.
    if free:
        assert Block(field(), field_dtype=torch.bfloat16).settings.divergence == Hutchinson()


@pytest.mark.parametrize("divergence", [name for name in DIVERGENCES if name != "exact"])
def test_an_estimated_likelihood_is_the_same_at_every_call_in_eval_mode(divergence: str) -> None:
    torch.manual_seed(0)
    fields = [ResidualField(5, 8) for _ in range(2)]
    flow = Flow([Block(field, divergence=divergence, controller=FixedStep(0.5), solver="rk4") for field in fields], 5)
    x = torch.randn(6, 5)
    assert not torch.equal(flow.log_prob(x), flow.log_prob(x))
    flow.eval()
    first = flow.log_prob(x)
    torch.manual_seed(1)
    assert torch.equal(flow.log_prob(x), first)
    # Neither the order nor the batch matters.
    torch.testing.assert_close(flow.log_prob(x.flip(0)).flip(0), first)
    torch.testing.assert_close(torch.stack([flow.log_prob(row) for row in x]), first)
    conditioned = flow.expand((6,)).log_prob(x)
    torch.testing.assert_close(conditioned, first)
    y, likelihood = flow.sample_and_log_prob(4)
    torch.testing.assert_close(flow.log_prob(y), likelihood, rtol=1e-2, atol=1e-2)
    # A seed asks for probes of their own, as in train mode.
    seeded = flow(x, seed=0)
    assert not torch.equal(seeded, first)
    assert torch.equal(seeded, flow.train()(x, seed=0))


def test_an_estimated_likelihood_in_eval_mode_is_a_smooth_function() -> None:
    torch.manual_seed(0)
    flow = Flow(Block(ResidualField(2, 8), controller=FixedStep(0.25), solver="rk4"), 2).double().eval()
    x = torch.randn(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(flow.log_prob, (x.clone().requires_grad_(),))


def test_a_number_of_samples_is_a_shape() -> None:
    flow = Flow(Block(MLPField(2, hidden=4)), 2)
    assert [layer.linear.out_features for layer in flow.stack()[0].field.layers] == [4, 2]  # type: ignore[union-attr]
    assert flow.sample(5).shape == flow.rsample(5).shape == (5, 2)
    assert flow.sample_and_log_prob(5)[1].shape == (5,)
    assert flow.expand(3).batch_shape == (3,)
    assert flow.expand(3).sample(5).shape == (5, 3, 2)
    assert flow.expand(()).expand(3).rsample(5).shape == (5, 3, 2)


@pytest.mark.parametrize("shape", [2.5, (2.5,), "ab", None])
def test_what_is_no_shape_is_refused(shape: Any) -> None:
    flow = Flow(Block(MLPField(2)), 2)
    uses = [flow.sample, flow.rsample, flow.expand, flow.expand(2).sample]
    if shape is not None:  # for widths: those that suit the columns
        uses.append(lambda hidden: MLPField(2, hidden))
    for use in uses:
        with pytest.raises(TypeError, match="expected a whole number or a sequence of them"):
            use(shape)


def test_what_is_not_a_block_is_refused_with_how_to_make_one() -> None:
    for made in (MLPField(2), [MLPField(2)], nn.ModuleList([MLPField(2)])):
        with pytest.raises(
            TypeError, match=r"a flow is made of blocks, not of MLPField: Flow\(\[Block\(field\)\], dim\)"
        ):
            Flow(made, 2)  # type: ignore[arg-type]


def test_contexts_that_do_not_fit_the_samples_name_the_distribution_that_has_them() -> None:
    flow = Flow(Block(MLPField(2, context_dim=3)), 2)
    with pytest.raises(ValueError, match=r"take flow.condition\(context\)"):
        flow.sample((100,), torch.zeros(5, 3))
    assert flow.condition(torch.zeros(5, 3)).sample((100,)).shape == (100, 5, 2)
