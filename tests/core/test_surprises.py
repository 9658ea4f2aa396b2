"""What users run into with other implementations must be handled here, or refused with the reason."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from symadj_core import IController, Solution, solve
from symadj_core.flows import Block, Flow
from symadj_core.memory import LiveTensorMeter
from tests.core.systems import EXACT_GRADIENTS, SmallField, gradient_of, relative_error, start

T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
CHECKPOINTED = [*EXACT_GRADIENTS, "adjoint"]
each_exact = pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
each_checkpointed = pytest.mark.parametrize("gradient", CHECKPOINTED)
EVERY = [*CHECKPOINTED, "backprop"]
each = pytest.mark.parametrize("gradient", EVERY)


def run(field: Any, gradient: str, y0: Tensor | None = None, **options: Any) -> Solution:
    controller = IController(rtol=1e-4, atol=1e-5)
    y0 = start() if y0 is None else y0
    return solve(field, y0, T.to(y0.real.dtype), controller=controller, gradient=gradient_of(gradient), **options)


def gradients_of(make: Callable[[], nn.Module], gradient: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    field, y0 = make(), start(dtype)
    ys = run(field, gradient, y0).ys
    return list(torch.autograd.grad(ys.abs().square().sum(), [y0, *field.parameters()]))


class WithUnused(SmallField):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))


@each
def test_an_unused_parameter_gets_no_gradient_and_does_no_harm(gradient: str) -> None:
    field = WithUnused()
    run(field, gradient).ys.sum().backward()
    assert field.inner.weight.grad is not None
    assert field.unused.grad is None or not field.unused.grad.any()


class Timeless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(-torch.eye(3, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix


class Stateless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return (self.slope * t).expand_as(y)


@each_exact
@pytest.mark.parametrize("make", [Timeless, Stateless])
def test_a_field_may_ignore_the_time_or_the_state(make: Callable[[], nn.Module], gradient: str) -> None:
    assert relative_error(gradients_of(make, gradient), gradients_of(make, "backprop")) < 1e-14


@each
def test_a_constant_field_has_the_gradient_of_the_identity(gradient: str) -> None:
    y0 = start()
    run(lambda t, y: torch.ones_like(y), gradient, y0).ys[-1].sum().backward()
    assert y0.grad is not None
    assert torch.equal(y0.grad, torch.ones_like(y0))


def test_a_flow_with_a_field_that_ignores_its_state_has_no_divergence() -> None:
    class Wind(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.ones_like(y)

    flow = Flow([Block(Wind(), divergence="exact")], 2)
    x = torch.zeros(3, 2)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(torch.ones(3, 2)).sum(-1)
    torch.testing.assert_close(flow(x), expected)
    torch.testing.assert_close(flow.with_settings(divergence="hutchinson")(x), expected)


@each
def test_a_method_of_a_module_and_a_closure_over_one_get_their_gradients(gradient: str) -> None:
    expected = gradients_of(SmallField, "backprop")
    for wrap in (lambda f: f.forward, lambda f: lambda t, y: f(t, y)):
        field, y0 = SmallField(), start()
        ys = run(wrap(field), gradient, y0).ys
        grads = torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()])
        assert relative_error(list(grads), expected) < (1e-2 if gradient == "adjoint" else 1e-13)


class Hiding(SmallField):
    """Uses a tensor that requires grad and is not among its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [torch.tensor(0.5, dtype=torch.float64, requires_grad=True)]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(t, y) * self.hidden[0]


@pytest.mark.parametrize("gradient", EXACT_GRADIENTS)
def test_a_tensor_that_a_module_hides_is_demanded_and_then_served(gradient: str) -> None:
    field = Hiding()
    solution = run(field, gradient)
    with pytest.raises(RuntimeError, match="parameters"):
        solution.ys.sum().backward()
    run(field, gradient, parameters=[*field.parameters(), *field.hidden]).ys.sum().backward()
    served = [field.hidden[0].grad, field.inner.weight.grad]
    field = Hiding()
    run(field, "backprop").ys.sum().backward()
    assert served[0] is not None
    torch.testing.assert_close(served, [field.hidden[0].grad, field.inner.weight.grad])


@each
def test_backward_can_run_twice_with_retain_graph_and_only_then(gradient: str) -> None:
    field, y0 = SmallField(), start()
    loss = run(field, gradient, y0).ys.square().sum()
    first = torch.autograd.grad(loss, [y0, *field.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [y0, *field.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, [y0])


# The continuous adjoint does not use y0 again: there is nothing for it to notice.
@pytest.mark.parametrize(
    ("gradient", "which"),
    [(name, which) for name in EVERY for which in ("parameter", "state") if (name, which) != ("adjoint", "state")],
)
def test_a_change_in_place_between_forward_and_backward_is_noticed(gradient: str, which: str) -> None:
    field = SmallField()
    y0 = start().detach() * 1.0
    loss = run(field, gradient, y0).ys.square().sum()
    with torch.no_grad():
        (field.inner.weight if which == "parameter" else y0).add_(1.0)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


class Dropping(SmallField):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(t, y), 0.3)


@each_exact
def test_dropout_is_replayed(gradient: str) -> None:
    def gradients(method: str) -> list[Tensor]:
        torch.manual_seed(0)
        field, y0 = Dropping(), start()
        # Fixed steps: with dropout, an error estimate means nothing.
        from symadj_core import FixedStep

        ys = solve(field, y0, T, controller=FixedStep(0.21), gradient=gradient_of(method)).ys
        torch.rand(5)
        grads = torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()])
        after.append(torch.rand(1))
        return list(grads)

    after: list[Tensor] = []
    expected = gradients("backprop")
    assert relative_error(gradients(gradient), expected) < 1e-14
    assert torch.equal(*after)


def test_random_numbers_drawn_by_some_uses_only_are_refused() -> None:
    class Sometimes(SmallField):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            noise = torch.rand_like(y) if float(t) > 0.5 else 0.0
            return super().forward(t, y) + noise

    with pytest.raises(RuntimeError, match="random numbers"):
        run(Sometimes(), "symplectic")


class Normalising(SmallField):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, dtype=torch.float64)
        with torch.no_grad():
            self.norm.weight.fill_(0.3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(t, self.norm(y))


@each_checkpointed
def test_running_statistics_are_not_updated_again_in_backward(gradient: str) -> None:
    field = Normalising()
    ys = run(field, gradient).ys
    assert field.norm.running_mean is not None
    before, uses = field.norm.running_mean.clone(), int(field.norm.num_batches_tracked)
    ys.sum().backward()
    assert torch.equal(field.norm.running_mean, before)
    assert int(field.norm.num_batches_tracked) == uses


@each_exact
def test_batch_normalisation_keeps_the_gradient_exact(gradient: str) -> None:
    assert relative_error(gradients_of(Normalising, gradient), gradients_of(Normalising, "backprop")) < 1e-12


@each_exact
def test_autocast_is_restored_in_backward(gradient: str) -> None:
    def gradients(method: str) -> list[Tensor]:
        field, y0 = SmallField(torch.float32), start(torch.float32)

        def cast(t: Tensor, y: Tensor) -> Tensor:
            used.append(field.inner(y).dtype)
            return field(t, y).float()

        from symadj_core import FixedStep

        with torch.autocast("cpu", dtype=torch.bfloat16):
            ys = solve(
                cast,
                y0,
                T.float(),
                controller=FixedStep(0.25),
                gradient=gradient_of(method),
                parameters=field.parameters(),
            ).ys
        return list(torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()]))

    used: list[torch.dtype] = []
    expected = gradients("backprop")
    assert relative_error(gradients(gradient), expected) < 2e-2
    assert set(used) == {torch.bfloat16}


class Rotating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([1.0 + 0.5j, -0.3j, 0.2], dtype=torch.complex128))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return 1j * self.rate * y * torch.cos(t) - y * y.abs().square() * 0.01


@each_exact
def test_complex_states_are_differentiated_as_autograd_does(gradient: str) -> None:
    make = Rotating
    found = gradients_of(make, gradient, torch.complex128)
    assert found[0].is_complex()
    assert relative_error(found, gradients_of(make, "backprop", torch.complex128)) < 1e-14


def test_complex_states_have_real_gradients_in_time() -> None:
    grads = []
    for gradient in ("symplectic", "backprop", "adjoint"):
        t = torch.tensor([0.0, 0.5, 1.1], dtype=torch.float64, requires_grad=True)
        ys = solve(
            Rotating(),
            start(torch.complex128),
            t,
            gradient=gradient,
            controller=IController(rtol=1e-9, atol=1e-10),
        ).ys
        grads.append(torch.autograd.grad(ys.abs().square().sum(), t)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-13, atol=0)
    torch.testing.assert_close(grads[2], grads[1], rtol=1e-5, atol=0)


@each_checkpointed
def test_transforms_of_torch_func_are_refused(gradient: str) -> None:
    field, y0 = SmallField(), start().detach()
    with pytest.raises(RuntimeError, match="backprop"):
        torch.func.grad(lambda y: run(field, gradient, y).ys.sum())(y0)
    with pytest.raises(RuntimeError, match="batch the state"):
        torch.func.vmap(lambda y: run(field, gradient, y).ys)(y0[None])


def test_backprop_works_within_grad_and_jvp_of_torch_func() -> None:
    field, y0 = SmallField(), start().detach()

    def loss(y: Tensor) -> Tensor:
        return run(field, "backprop", y).ys.square().sum()

    leaf = start()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(y0), expected)
    _, along = torch.func.jvp(loss, (y0,), (torch.ones_like(y0),))
    torch.testing.assert_close(along, expected.sum())


def test_second_derivatives_come_from_backprop_and_are_refused_elsewhere() -> None:
    y0 = start()

    def hessian_row(gradient: str) -> Tensor:
        (first,) = torch.autograd.grad(run(SmallField(), gradient, y0).ys.square().sum(), y0, create_graph=True)
        return torch.autograd.grad(first[0, 0], y0)[0]

    assert hessian_row("backprop")[0].abs().sum() > 0
    for gradient in CHECKPOINTED:
        with pytest.raises(RuntimeError, match="second derivative"):
            hessian_row(gradient)


@each
def test_nothing_stays_alive_when_backward_never_comes(gradient: str) -> None:
    field = SmallField()
    gc.collect()
    gc.disable()
    try:
        with LiveTensorMeter() as meter:
            y0 = start()
            solution = run(field, gradient, y0)
            watched = weakref.ref(solution.ys)
            assert meter.live_bytes > 0
            del solution, y0
            assert watched() is None
            assert meter.live_bytes == 0
    finally:
        gc.enable()


@each
def test_a_backward_frees_what_was_kept(gradient: str) -> None:
    field = SmallField()
    run(field, gradient).ys.sum().backward()
    with LiveTensorMeter() as meter:
        y0 = start().detach()
        loss = run(field, gradient, y0).ys.sum()
        held = meter.live_bytes
        loss.backward()
        assert meter.live_bytes <= held
        assert meter.live_bytes <= y0.nbytes + loss.nbytes


@each
@pytest.mark.usefixtures("process_group")
def test_ddp_as_the_field_is_refused(gradient: str) -> None:
    with pytest.raises(TypeError, match="wrap the module"):
        run(DistributedDataParallel(SmallField()), gradient)


@each_checkpointed
def test_hooks_of_parameters_see_the_whole_gradient_once(gradient: str) -> None:
    field = SmallField()
    seen: list[Tensor] = []
    field.inner.weight.register_hook(lambda g: seen.append(g.clone()))
    run(field, gradient).ys.sum().backward()
    assert len(seen) == 1
    assert field.inner.weight.grad is not None
    assert torch.equal(seen[0], field.inner.weight.grad)


@each_checkpointed
def test_an_error_in_the_field_during_backward_leaves_the_module_as_it_was(gradient: str) -> None:
    class Failing(SmallField):
        armed = False

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            if self.armed:
                raise KeyError("field")
            return super().forward(t, y)

    field = Failing()
    mine = dict(field.named_parameters())
    loss = run(field, gradient).ys.sum()
    field.armed = True
    with pytest.raises(KeyError):
        loss.backward()
    assert all(p is mine[name] for name, p in field.named_parameters())


def test_frozen_parameters_get_no_gradient() -> None:
    field = SmallField()
    field.inner.requires_grad_(False)
    run(field, "symplectic").ys.sum().backward()
    assert field.inner.weight.grad is None
    assert field.outer.weight.grad is not None


def test_saved_tensor_hooks_see_the_checkpoints() -> None:
    field, packed = SmallField(), [0]

    def pack(x: Tensor) -> Tensor:
        packed[0] += 1
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        solution = run(field, "symplectic")
    assert packed[0] >= 6 * solution.stats.accepted
    solution.ys.sum().backward()
    assert field.inner.weight.grad is not None


@pytest.mark.parametrize("gradient", ["symplectic", "aca", "backprop"])
def test_a_compiled_field_is_compiled_once_a_grad_mode_and_has_the_same_gradient(gradient: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    field, y0 = SmallField(), start()
    compiled = torch.compile(field, backend="eager")
    ys = run(compiled, gradient, y0).ys
    grads = torch.autograd.grad(ys.abs().square().sum(), [y0, *field.parameters()])
    run(compiled, gradient, y0).ys.sum().backward()
    assert relative_error(list(grads), gradients_of(SmallField, "backprop")) < 1e-13
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3
