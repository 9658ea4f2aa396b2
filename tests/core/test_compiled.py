"""Fields that are compiled: the same numbers.

They are traced and differentiated as for inductor, but run by torch: no C++ compiler is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from symadj_core import FixedStep, compilation
from symadj_core.flows import Block, ConvField, Flow, MLPField, PotentialField, ResidualField
from symadj_core.flows.fields import closed_form
from tests.core.systems import normal


def _whole(function: Callable[..., object], **options: Any) -> Callable[..., object]:
    work: Callable[..., object] = compilation.compiled.__wrapped__(function, **options | {"whole": True})
    return work


@pytest.fixture(autouse=True)
def _one_graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compilation, "_BACKEND", "aot_eager")
    monkeypatch.setattr(closed_form, "compiled", functools.cache(_whole))
    yield
    torch.compiler.reset()


def value_and_gradients(
    field: nn.Module, divergence: str, context: torch.Tensor | None, regularisers: Sequence[str]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    flow = Flow([Block(field, divergence=divergence, solver="midpoint", controller=FixedStep(0.5))], 4)
    field.zero_grad()
    x = normal(5, 4, seed=1, dtype=torch.float32)
    log_prob, costs = flow.regularised_log_prob(x, seed=0, context=context, regularisers=regularisers)
    loss = sum(costs.values(), log_prob).sum()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in field.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("make", "divergence", "regularisers"),
    [
        (lambda: MLPField(4, (8, 8)), "hutchinson", ()),
        (lambda: MLPField(4, (8,), activation="silu"), "exact", ()),
        (lambda: MLPField(4, (8, 8), time="fourier", context_dim=2), "exact", ("kinetic", "jacobian_frobenius")),
        (lambda: MLPField(4, (8, 8)), "hutchpp", ()),
        (lambda: ResidualField(4, 8, 1), "hutchinson", ()),
        (lambda: ResidualField(4, 8, 1), "exact", ()),
        (lambda: PotentialField(4, 8), "exact", ("hjb",)),
        (lambda: ConvField((1, 2, 2), (3,)), "hutchinson", ()),
    ],
)
def test_a_compiled_field_has_the_likelihood_and_the_gradient_of_the_plain_one(
    make: Callable[[], nn.Module], divergence: str, regularisers: Sequence[str]
) -> None:
    torch.manual_seed(0)
    field = make()
    context = torch.randn(5, 2) if field.context_dim else None
    plain = value_and_gradients(field, divergence, context, regularisers)
    field.compile(backend="aot_eager", dynamic=False)
    compiled = value_and_gradients(field, divergence, context, regularisers)
    assert len(plain[1]) >= len(list(field.parameters())) - 1
    torch.testing.assert_close(compiled, plain)


@pytest.mark.filterwarnings("ignore:torch._dynamo hit config.recompile_limit")
def test_batches_of_more_sizes_than_torch_compiles_for_are_taken_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "compiled", functools.cache(compilation.compiled.__wrapped__))
    field = MLPField(4, (8, 8))
    flow = Flow([Block(field, divergence="hutchinson", solver="midpoint", controller=FixedStep(0.5))], 4)
    batches = [normal(rows, 4, seed=1, dtype=torch.float32) for rows in (3, 4, 5, 6)]
    expected = [flow(x, seed=0).detach() for x in batches]
    field.compile(backend="aot_eager")
    with torch._dynamo.config.patch(recompile_limit=2):
        for x, plain in zip(batches, expected, strict=True):
            found = flow(x, seed=0)
            found.sum().backward()
            assert torch.allclose(found, plain, rtol=1e-5, atol=1e-6)


def test_a_field_given_to_torch_compile_keeps_its_divergence() -> None:
    torch.manual_seed(0)
    field = ResidualField(4, 8, 1)
    plain = value_and_gradients(field, "hutchinson", None, ())
    wrapped = torch.compile(field, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(value_and_gradients(wrapped, "hutchinson", None, ()), plain)
