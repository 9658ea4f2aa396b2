"""Products of matrices for closed forms: right at every size, whichever library takes them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from symadj_core import IController
from symadj_core.flows import DIVERGENCES, Block, Flow, MLPField
from symadj_core.flows.fields import closed_form, products
from symadj_core.flows.fields.activations import ACTIVATIONS
from symadj_core.flows.fields.layers import LAYERS

# Small ones go to torch's own, large ones to oneDNN; the gradient for few inputs is computed by its transpose.
SIZES = [(3, 4, 5), (1000, 100, 90), (1000, 6, 60), (1000, 60, 6), (0, 4, 5)]


class Seen(TorchDispatchMode):
    """Notes which operations there are."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[object] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _no_shapes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_SHAPES", set())


def layer(batch: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [batch, inputs], W [outputs, inputs] and b [outputs]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, inputs, generator=generator)
    return x, torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)


def assert_near(found: Tensor, exact: Tensor, terms: Tensor | float) -> None:
    """Within the rounding of sums of float32 numbers whose absolute values sum to `terms`."""
    assert found.dtype is torch.float32
    assert found.shape == exact.shape
    assert ((found.double() - exact).abs() <= 4e-7 * terms + 1e-30).all()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_products_are_those_of_float64_up_to_rounding(size: tuple[int, int, int]) -> None:
    x, weight, bias = layer(*size)
    back = torch.randn(size[0], size[2])
    exact = F.linear(x.double(), weight.double(), bias.double())
    terms = F.linear(x.abs(), weight.abs(), bias.abs())
    assert_near(products.linear(x, weight, bias), exact, terms)
    assert_near(products.linear(x[None], weight), F.linear(x.double(), weight.double())[None], terms)
    assert_near(products.linear(back, weight.T), back.double() @ weight.double(), back.abs() @ weight.abs())
    assert_near(products.linear_tanh(x, weight, bias), exact.tanh(), terms + 1.0)
    summed = products.outer_sum((back, x), (2.0 * back, x))
    assert summed.is_contiguous()
    assert_near(summed, 3.0 * (back.double().T @ x.double()), 9.0 * (back.abs().T @ x.abs()))


@torch.no_grad()
def test_a_tanh_is_as_exact_for_tiny_numbers_as_for_large_ones_and_keeps_nan() -> None:
    z = torch.logspace(-30, 2, 500)
    z = torch.cat([z, -z, torch.tensor([torch.inf, -torch.inf])])
    one, zero = torch.ones(64, 1), torch.zeros(64)
    exact = z.double().tanh()[:, None]
    assert ((products.linear_tanh(z[:, None], one, zero).double() - exact).abs() <= 1.2e-7 * exact.abs()).all()
    assert products.linear_tanh(torch.full((1000, 1), torch.nan), one, zero).isnan().all()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN")
def test_onednn_takes_large_products_only_where_no_gradient_is_wanted_and_it_is_on() -> None:
    x, weight, bias = layer(1000, 100, 90)

    def operations() -> dict[object, int]:
        with FlopCounterMode(display=False) as counter:
            products.linear(x, weight, bias)
        return dict(counter.get_flop_counts()["Global"])

    work = 2 * 1000 * 100 * 90
    with torch.no_grad():
        assert operations() == {torch.ops.mkldnn._linear_pointwise: work}
        with torch.backends.mkldnn.flags(enabled=False):
            assert operations() == {torch.ops.aten.addmm: work}
    assert operations() == {torch.ops.aten.addmm: work}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN")
@pytest.mark.parametrize("divergence", [name for name in DIVERGENCES if name != "hutchpp"])  # which autograd takes
def test_a_training_step_goes_to_onednn_and_rows_that_are_scored_do_not(divergence: str) -> None:
    torch.manual_seed(0)
    flow = Flow([Block(MLPField(5, (90, 80)), divergence=divergence, gradient="symplectic")], 5)
    x = torch.randn(1200, 5)

    def operations(*, trained: bool) -> set[object]:
        with Seen() as seen, torch.set_grad_enabled(trained):
            likelihood = flow(x, seed=0).mean()
            if trained:
                likelihood.backward()
        return seen.operations

    assert torch.ops.mkldnn._linear_pointwise in operations(trained=True)
    assert torch.ops.mkldnn._linear_pointwise not in operations(trained=False)


def test_what_is_compiled_does_not_go_to_onednn_even_where_it_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does while a mode watches its operations, and a compiler that then meets oneDNN's stops."""
    monkeypatch.setattr(closed_form, "compiled", lambda function, **_: function)
    field = MLPField(5, (90, 80))
    field.compile(backend="eager")
    for divergence in ("exact", "hutchinson"):
        flow = Flow([Block(field, divergence=divergence, gradient="symplectic")], 5)
        with Seen() as seen:
            flow(torch.randn(1200, 5), seed=0).mean().backward()
        assert torch.ops.aten.tanh_backward in seen.operations
        assert torch.ops.mkldnn._linear_pointwise not in seen.operations


@pytest.mark.skipif(sys.platform != "linux", reason="the figure is Linux's")
def test_batches_of_ever_new_sizes_do_not_fill_the_memory() -> None:
    program = """
import torch
from symadj_core.flows.fields.products import linear_tanh
torch.set_num_threads(1)
weight, bias = torch.randn(430, 430), torch.randn(430)

def mebibytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

with torch.no_grad():
    linear_tanh(torch.randn(1000, 430), weight, bias)
    before = mebibytes()
    for rows in range(400, 600):
        linear_tanh(torch.randn(rows, 430), weight, bias)
    print(mebibytes() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # 130 MiB if each of them kept its kernel.
    assert float(run.stdout) < 40


def test_autograd_and_its_transforms_see_ordinary_products() -> None:
    x, weight, bias = layer(1000, 100, 90)
    weight.requires_grad_()
    (gradient,) = torch.autograd.grad(products.linear(x, weight, bias).sum(), weight)
    torch.testing.assert_close(gradient, x.sum(0).expand_as(gradient), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        each = torch.func.vmap(lambda row: products.linear(row, weight, bias))(x[:, None])
        torch.testing.assert_close(each[:, 0], F.linear(x, weight, bias))
        with forward_ad.dual_level():
            moved = products.linear_tanh(forward_ad.make_dual(x, x), weight, bias)
            value, tangent = forward_ad.unpack_dual(moved)
        assert tangent is not None
        torch.testing.assert_close(tangent, (1.0 - value.square()) * F.linear(x, weight))


@torch.no_grad()
def test_a_product_of_matrices_that_do_not_fit_is_refused_as_torch_does() -> None:
    x, weight, bias = layer(1000, 100, 90)
    for function in (products.linear, products.linear_tanh):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            function(x, weight[:, :-1], bias)
        with pytest.raises(RuntimeError, match="same dtype"):
            function(x, weight.double(), bias.double())


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("time", LAYERS)
def test_the_gradient_of_a_wide_perceptron_in_float32_is_that_of_float64(
    time: str, activation: str, divergence: str
) -> None:
    torch.manual_seed(0)
    field = MLPField(5, (90, 80), time=time, activation=activation)
    x = torch.randn(1200, 5)
    options = {"divergence": divergence, "controller": IController(rtol=1e-3, atol=1e-4)}

    def gradient(x: Tensor, method: str) -> Tensor:
        flow = Flow([Block(field.to(x.dtype), gradient=method, **options)], 5)
        flow.zero_grad()
        (-flow(x, seed=0).mean()).backward()
        return torch.cat([p.grad.double().flatten() for p in flow.parameters() if p.grad is not None])

    found = gradient(x, "symplectic")
    exact = gradient(x.double(), "backprop")
    assert (found - exact).norm() <= 2e-4 * exact.norm()
