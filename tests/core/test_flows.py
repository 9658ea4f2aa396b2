from __future__ import annotations

import copy
import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Distribution
from torch.nn.parallel import DistributedDataParallel

from symadj_core import FixedStep, IController, SolverError
from symadj_core.flows import Block, Exact, Flow, Hutchinson, MLPField, ProbeKey
from symadj_core.flows.fields.closed_form import PerceptronRates
from symadj_core.flows.integrands import divergence
from symadj_core.flows.integrands.probes import draw
from tests.core.reads import HostReads
from tests.core.systems import EXACT_GRADIENTS, gradient_of, normal, relative_error

TIGHT = IController(rtol=1e-9, atol=1e-10)


def make_flow(
    dim: int = 3,
    blocks: int = 2,
    *,
    dtype: torch.dtype = torch.float64,
    field: dict[str, Any] | None = None,
    **options: Any,
) -> Flow:
    torch.manual_seed(3)
    made = [
        Block(MLPField(dim, (12, 12), **(field or {})), **{"controller": TIGHT, "divergence": "hutchinson", **options})
        for _ in range(blocks)
    ]
    return Flow(made, dim).to(dtype)


def points(n: int = 6, dim: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return normal(n, dim, seed=1, dtype=dtype)


@pytest.mark.parametrize("time", ["concat", "concatsquash", "fourier"])
@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu"])
def test_log_prob_is_the_change_of_variables_of_the_map(time: str, activation: str) -> None:
    own = {"time": time, "activation": activation}
    flow = make_flow(divergence="exact", solver="dopri8", gradient="backprop", field=own)
    x = points(3)
    # Samples do not depend on each other: the rows of their sum's Jacobian are those of each.
    per_sample = torch.autograd.functional.jacobian(lambda v: flow.to_base(v).sum(0), x).movedim(1, 0)
    z = flow.to_base(x)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + torch.linalg.slogdet(per_sample)[1]
    torch.testing.assert_close(flow(x), expected, rtol=1e-7, atol=1e-7)


def test_the_density_in_one_dimension_integrates_to_one() -> None:
    flow = make_flow(dim=1, divergence="exact")
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        mass = torch.trapezoid(flow(x).exp(), x[:, 0])
    assert float(mass) == pytest.approx(1.0, abs=1e-5)


def test_the_map_to_the_base_is_inverted() -> None:
    flow, x = make_flow(), points()
    torch.testing.assert_close(flow.from_base(flow.to_base(x)), x, rtol=1e-7, atol=1e-7)


def test_samples_have_the_log_prob_that_comes_with_them() -> None:
    flow = make_flow(divergence="exact")
    x, log_prob = flow.sample_and_log_prob((2, 5))
    assert x.shape == (2, 5, 3)
    torch.testing.assert_close(flow.log_prob(x), log_prob, rtol=1e-6, atol=1e-6)


def test_a_flow_is_a_distribution_and_a_module() -> None:
    flow = make_flow()
    assert isinstance(flow, Distribution)
    assert isinstance(flow, nn.Module)
    assert flow.event_shape == (3,)
    assert flow.sample((4,)).shape == (4, 3)
    assert flow.sample().shape == (3,)
    assert not flow.sample((4,)).requires_grad
    assert flow.rsample((4,)).requires_grad
    assert "MLPField" in repr(flow)


@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
@pytest.mark.parametrize("estimate", ["exact", "hutchinson"])
def test_training_gradients_equal_backprop(gradient: str, estimate: str) -> None:
    x, index = points(), torch.arange(6)
    grads = {}
    for name in (gradient, "backprop"):
        flow = make_flow(
            divergence=estimate,
            gradient=gradient_of(name),
            controller=IController(rtol=1e-3, atol=1e-4),
            learn_end_time=True,
        )
        flow(x, seed=1, step=2, sample_index=index).mean().backward()
        grads[name] = [p.grad for p in flow.parameters() if p.grad is not None]
        assert len(grads[name]) == len(list(flow.parameters()))
    assert relative_error(grads[gradient], grads["backprop"]) < 1e-13


def test_the_gradient_of_the_end_time_is_exact() -> None:
    flow = make_flow(blocks=1, divergence="exact", learn_end_time=True, controller=FixedStep(), solver="rk4")
    (block,) = flow.blocks
    assert isinstance(block, Block)
    x = points()
    flow(x).sum().backward()
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            block.end_time.add_(sign * step)
            values.append(float(flow(x).sum()))
            block.end_time.sub_(sign * step)
    assert block.end_time.grad is not None
    assert float(block.end_time.grad) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-7)


def test_a_learnt_end_time_stays_positive_and_above_a_hundredth_of_the_first_is_the_parameter_itself() -> None:
    flow = make_flow(blocks=2, learn_end_time=True, end_time=0.5)
    block, _ = flow.stack()
    assert isinstance(block.end_time, torch.nn.Parameter)
    used, slopes = [], []
    places = [-298.0, -1.0, 0.0, 0.0049, 0.005, 0.0051, 0.3, 7.0]
    for place in places:
        with torch.no_grad():
            block.end_time.fill_(place)
        duration = block.duration()
        assert isinstance(duration, torch.Tensor)
        (slope,) = torch.autograd.grad(duration.sum(), block.end_time)
        used.append(float(duration.detach()))
        slopes.append(float(slope))
    assert used[4:] == places[4:]
    assert all(0 < earlier < later for earlier, later in pairwise(used))
    assert slopes[4:] == [1.0] * 4
    assert slopes[3] == pytest.approx(1.0, rel=0.05)
    assert all(slope > 0 for slope in slopes)


def test_the_gradient_of_a_learnt_end_time_below_zero_is_exact_and_the_flow_has_an_inverse() -> None:
    flow = make_flow(
        blocks=1, divergence="exact", learn_end_time=True, controller=FixedStep(grid=Halves()), solver="rk4"
    )
    (block,) = flow.stack()
    assert isinstance(block.end_time, torch.nn.Parameter)
    with torch.no_grad():
        block.end_time.fill_(-0.02)
    x = points()
    flow(x).sum().backward()
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            block.end_time.add_(sign * step)
            values.append(float(flow(x).sum()))
            block.end_time.sub_(sign * step)
        whole = float(block.duration())
        assert torch.allclose(flow.from_base(flow.to_base(x)), x, atol=1e-9)
        assert torch.isfinite(flow.transport(flow.to_base(x), torch.linspace(whole, 0, 5, dtype=torch.float64))).all()
    assert block.end_time.grad is not None
    assert float(block.end_time.grad) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


class Halves:
    """A grid of two equal steps, however short the solve is."""

    def __call__(self, times: list[float]) -> list[float]:
        return [times[0], (times[0] + times[-1]) / 2, times[-1]]


def test_hutchinson_is_unbiased_and_rademacher_probes_vary_less() -> None:
    field, x = MLPField(3, (8,)).double(), points(1).expand(20000, 3)
    index = torch.arange(len(x))
    t = torch.tensor(0.3, dtype=torch.float64)
    key = ProbeKey(seed=4)
    exact = Exact().rates(field, key, index, x)(t, x)[1][0].detach()
    spread = {}
    for distribution in ("rademacher", "gaussian"):
        estimates = (
            divergence.by_name("hutchinson", distribution=distribution).rates(field, key, index, x)(t, x)[1].detach()
        )
        spread[distribution] = float(estimates.std())
        assert abs(float(estimates.mean() - exact)) < 5 * spread[distribution] / len(x) ** 0.5
    assert spread["rademacher"] < spread["gaussian"]


def test_more_probes_vary_less() -> None:
    field, x = MLPField(3, (8,)).double(), points(1).expand(5000, 3)
    t, index = torch.tensor(0.3, dtype=torch.float64), torch.arange(5000)
    spreads = [float(Hutchinson(probes=k).rates(field, ProbeKey(4), index, x)(t, x)[1].detach().std()) for k in (1, 4)]
    assert spreads[1] == pytest.approx(spreads[0] / 2, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    step=st.integers(0, 2**40),
    order=st.permutations(list(range(8))),
    dim=st.integers(1, 70),
    distribution=st.sampled_from(["rademacher", "gaussian"]),
)
def test_a_probe_depends_on_its_sample_and_not_on_its_batch(
    seed: int, step: int, order: list[int], dim: int, distribution: Any
) -> None:
    key = ProbeKey(seed, step)
    index = torch.tensor([3, 10**12, 0, 7, 8, 2**40, 1, 99])
    whole = draw(distribution, key, index, dim)
    assert whole.shape == (1, 8, dim)
    assert torch.equal(draw(distribution, key, index[order], dim), whole[:, order])
    assert torch.equal(draw(distribution, key, index[2:5], dim), whole[:, 2:5])
    assert torch.isfinite(whole).all()


def test_probes_differ_by_seed_step_block_sample_and_number() -> None:
    index = torch.arange(50)
    keys = [ProbeKey(0), ProbeKey(1), ProbeKey(0, 1), ProbeKey(0, 0, 1), ProbeKey(1, 1, 1)]
    drawn = [draw("gaussian", key, index, 4, probes=2) for key in keys]
    values = torch.stack(drawn).flatten()
    assert len(values.unique()) > 0.999 * len(values)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_probes_are_white(distribution: Any) -> None:
    noise = draw(distribution, ProbeKey(11), torch.arange(40000), 6, dtype=torch.float64)[0]
    covariance = noise.T @ noise / len(noise)
    assert float(noise.mean(0).abs().max()) < 0.03
    torch.testing.assert_close(covariance, torch.eye(6, dtype=torch.float64), rtol=0, atol=0.04)
    neighbours = (noise[1:] * noise[:-1]).mean(0)
    assert float(neighbours.abs().max()) < 0.03


RECORDED_SIGNS = [[1, 1, 1, 1, 1, 1, -1, 1], [1, 1, -1, 1, 1, -1, -1, -1]]
RECORDED_NORMAL = [0.9711287804743097, 1.0734294942585754]


def test_probes_have_the_values_they_had_when_runs_were_recorded() -> None:
    """A change of the hash would break the resumption of every run there is."""
    signs = draw("rademacher", ProbeKey(1, 2, 3), torch.tensor([0, 5]), 8)[0]
    assert signs.tolist() == RECORDED_SIGNS
    normal = draw("gaussian", ProbeKey(1, 2, 3), torch.tensor([5]), 2, dtype=torch.float64)[0, 0]
    assert normal.tolist() == pytest.approx(RECORDED_NORMAL, rel=1e-12)


def test_the_same_key_gives_the_same_likelihood_and_another_one_does_not() -> None:
    flow, x = make_flow(), points()
    assert torch.equal(flow(x, seed=1, step=5), flow(x, seed=1, step=5))
    assert not torch.equal(flow(x, seed=1, step=5), flow(x, seed=1, step=6))


def test_halves_of_a_batch_give_the_likelihoods_of_the_whole() -> None:
    flow = make_flow(controller=FixedStep(0.25), solver="rk4")
    x, index = points(8), torch.arange(100, 108)
    whole = flow(x, seed=3, step=1, sample_index=index)
    halves = [flow(x[s], seed=3, step=1, sample_index=index[s]) for s in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-12, atol=1e-12)


def test_other_settings_share_the_weights_and_nothing_else() -> None:
    flow, x = make_flow(controller=IController(rtol=1e-2, atol=1e-3)), points()
    strict = flow.with_settings(divergence="exact", rtol=1e-8, atol=1e-9, gradient="aca", solver="tsit5")
    assert [p.data_ptr() for p in flow.parameters()] == [p.data_ptr() for p in strict.parameters()]
    strict(x)
    strict_steps = strict.last_stats.accepted
    flow(x)
    assert flow.last_stats.accepted < strict_steps
    with pytest.raises(ValueError, match="adaptive"):
        make_flow(controller=FixedStep(0.1)).with_settings(rtol=1e-3)


def test_other_settings_leave_the_shared_modules_in_their_modes() -> None:
    flow = make_flow().train()
    frozen = flow.stack()[0].field.layers[0].eval()
    strict = flow.with_settings(divergence="exact")
    assert strict.training
    assert not frozen.training
    assert not flow.eval().with_settings(divergence="exact").training


def test_a_block_of_another_kind_keeps_its_kind_with_other_settings() -> None:
    class Reversed(Block):
        def part(self, y: torch.Tensor) -> torch.Tensor:
            return y.flip(-1)

        def with_part(self, y: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
            return part.flip(-1)

    torch.manual_seed(0)
    flow, x = Flow([Reversed(MLPField(3), divergence="exact")], 3), points(dtype=torch.float32)
    torch.testing.assert_close(flow.with_settings(gradient="aca")(x), flow(x))


def test_stats_are_summed_over_blocks_and_know_backward() -> None:
    flow, x = make_flow(blocks=3), points()
    flow(x).sum().backward()
    stats = flow.last_stats
    assert stats.accepted >= 3
    assert stats.nfe_forward >= 6 * stats.accepted
    assert stats.nfe_backward == 6 * stats.accepted
    assert 0 < stats.dt_min <= stats.dt_max <= 1
    assert stats.checkpoint_bytes > 0


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("gradient", ["backprop", "symplectic", "aca", "onecheckpoint", "adjoint"])
def test_ddp_around_the_flow_gives_the_gradients_of_the_flow(gradient: str) -> None:
    x, index = points(dtype=torch.float32), torch.arange(6)
    alone = make_flow(gradient=gradient, dtype=torch.float32, controller=IController())
    alone(x, seed=0, step=0, sample_index=index).mean().backward()
    wrapped = make_flow(gradient=gradient, dtype=torch.float32, controller=IController())
    parallel = DistributedDataParallel(wrapped)
    for _ in range(2):
        parallel.zero_grad()
        parallel(x, seed=0, step=0, sample_index=index).mean().backward()
    for a, b in zip(alone.parameters(), wrapped.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad)


def test_weights_survive_a_round_trip_through_their_state() -> None:
    flow, other, x = make_flow(), make_flow(), points()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    assert not torch.equal(flow(x, seed=0), other(x, seed=0))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow(x, seed=0), other(x, seed=0))


def test_a_zero_initialised_flow_is_the_identity() -> None:
    flow, x = make_flow(field={"zero_init": True}), points()
    torch.testing.assert_close(flow.to_base(x), x)


def test_a_flow_learns_a_shifted_and_scaled_normal() -> None:
    torch.manual_seed(0)
    flow = Flow([Block(MLPField(2, (16,)), controller=IController(rtol=1e-2, atol=1e-2))], 2)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-2)
    target = torch.distributions.Normal(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.5]))
    data = normal(512, 2, seed=0, dtype=torch.float32) * target.scale + target.loc
    for step in range(60):
        optimiser.zero_grad()
        loss = -flow(data, seed=0, step=step).mean()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        reached = -flow.with_settings(divergence="exact")(data).mean()
    assert float(reached) < float(-target.log_prob(data).sum(-1).mean()) + 0.15


def test_a_diverged_flow_raises_with_its_reason() -> None:
    flow = make_flow(controller=IController(max_steps=1))
    with pytest.raises(SolverError) as caught:
        flow(points())
    assert caught.value.reason == "max_steps"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Flow([], 2),
        lambda: Block(MLPField(2), end_time=0.0),
        lambda: Block(MLPField(2), end_time=math.inf),
        lambda: MLPField(2, (0,)),
        lambda: MLPField(2, time="magic"),  # type: ignore[arg-type]
        lambda: MLPField(2, activation="relu"),  # type: ignore[arg-type]
        lambda: divergence.by_name("magic"),
        lambda: divergence.by_name("hutchinson", probes=0),
        lambda: divergence.by_name("hutchinson", distribution="uniform"),
        lambda: divergence.by_name("hutchpp", distribution="uniform"),
        lambda: draw("uniform", ProbeKey(0), torch.arange(2), 2),  # type: ignore[arg-type]
        lambda: make_flow()(torch.zeros(4, 2)),
        lambda: Flow([Block(MLPField(3))], 2),
        lambda: make_flow()(points(), sample_index=torch.arange(3)),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"at least|must be|unknown|expected|has shape|make it with"):
        make()


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("rtol", "controller=IController(rtol=...)"),
        ("step_size", "controller=FixedStep(step_size=...)"),
        ("probes", "divergence=Hutchinson(probes=...)"),
        ("keep", "gradient=Symplectic(keep=...)"),
    ],
)
def test_an_option_of_a_part_is_refused_with_the_part_that_has_it(option: str, meant: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"Block has no option {option!r}, its")) as refused:
        Block(MLPField(2), **{option: 1})
    assert meant in str(refused.value)


def test_log_prob_takes_any_leading_shape() -> None:
    flow = make_flow(divergence="exact")
    x = points(6)
    torch.testing.assert_close(flow(x.view(2, 3, 3)), flow(x).view(2, 3))
    assert flow(x[0]).shape == ()
    assert float(flow(x)[0].detach().exp()) < 1 / math.sqrt(2 * math.pi) ** 3 * 100


@pytest.mark.parametrize("time", ["concat", "concatsquash", "fourier"])
@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu"])
@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.parametrize("with_divergence", [True, False])
def test_the_closed_form_of_a_perceptron_is_what_autograd_finds(
    time: Any, activation: Any, probes: int, with_divergence: bool
) -> None:
    torch.manual_seed(2)
    field = MLPField(3, (7, 5, 6), time=time, activation=activation).double()
    y, t, index = points(), torch.tensor(0.4, dtype=torch.float64), torch.arange(6)
    noise = draw("gaussian", ProbeKey(1), index, 3, probes=probes, dtype=torch.float64)
    rates = Hutchinson("gaussian", probes).rates(field, ProbeKey(1), index, y)
    assert isinstance(rates, PerceptronRates)
    state, rate = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)

    with torch.no_grad():
        value, trace = rates(t, y)
    leaf = y.clone().requires_grad_()
    # A function is no field that is known in closed form.
    by_autograd = Hutchinson("gaussian", probes).rates(lambda t, y: field(t, y), ProbeKey(1), index, y)
    expected_value, expected_trace = by_autograd(t, leaf)
    assert torch.equal(value, expected_value)
    torch.testing.assert_close(trace, expected_trace.detach(), rtol=1e-12, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda v: field(t, v).sum(0), y).permute(1, 0, 2)
    by_hand = torch.einsum("kbi,bij,kbj->b", noise, jacobian, noise) / probes
    torch.testing.assert_close(trace, by_hand, rtol=1e-11, atol=1e-11)

    outputs = [expected_value, expected_trace] if with_divergence else [expected_value]
    grads = torch.autograd.grad(outputs, [leaf, *field.parameters()], [state, rate][: len(outputs)])
    with torch.no_grad():
        for _ in range(2):
            back = rates.pull(t, y, state, rate if with_divergence else None)
    torch.testing.assert_close(back, grads[0], rtol=1e-11, atol=1e-12)
    for parameter, grad in zip(field.parameters(), grads[1:], strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 2 * grad, rtol=1e-11, atol=1e-12)


def test_whatever_changes_the_forward_of_a_perceptron_puts_autograd_in_charge() -> None:
    class Doubled(MLPField):
        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(t, y)

    def is_closed(field: nn.Module) -> bool:
        x = points(2)
        return isinstance(Hutchinson().rates(field, ProbeKey(0), torch.arange(2), x), PerceptronRates)

    assert is_closed(MLPField(3))
    assert not is_closed(Doubled(3))
    replaced = MLPField(3)
    replaced.forward = lambda t, y: y  # type: ignore[method-assign]
    assert not is_closed(replaced)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MLPField, "forward", lambda self, t, y: y)
        assert not is_closed(MLPField(3))
    hooked = MLPField(3)
    hooked.layers[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert not is_closed(hooked)
    normed = MLPField(3)
    torch.nn.utils.parametrizations.weight_norm(normed.layers[0].linear)
    assert not is_closed(normed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_closed(MLPField(3))


def test_frozen_parameters_of_a_perceptron_get_no_gradient() -> None:
    flow, x = make_flow(), points()
    frozen = next(iter(flow.parameters())).requires_grad_(False)
    flow(x, seed=0).mean().backward()
    assert frozen.grad is None
    others = [p.grad for p in flow.parameters() if p is not frozen]
    assert all(g is not None for g in others)


def test_a_copy_of_a_flow_is_a_flow_of_its_own() -> None:
    flow, x = make_flow(learn_end_time=True), points()
    flow(x, seed=0).mean().backward()
    twin = copy.deepcopy(flow)
    assert torch.equal(twin(x, seed=0), flow(x, seed=0))
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
    assert not torch.equal(twin(x, seed=0), flow(x, seed=0))


def test_the_device_is_read_once_an_attempted_step_of_a_flow_and_once_for_each_first_step() -> None:
    flow, x = make_flow(controller=IController(rtol=1e-4, atol=1e-5)), points()
    with HostReads() as reads:
        loss = flow(x, seed=0, sample_index=torch.arange(6)).mean()
        stats = flow.last_stats
        times = 2 * 2
        assert reads.count - times <= stats.accepted + stats.rejected + 2 * 3
        reads.count = 0
        loss.backward()
        assert reads.count == 0
