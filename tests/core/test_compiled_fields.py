"""`field.compile()` for fields of a user's own, with their divergence by autograd."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

from symadj_core import compilation, odeint_symplectic_adjoint, solve
from symadj_core.solvers import compiled

Used = list[str]


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[Used]:
    """What of a field is compiled, use by use: traced by torch as ever, and not made into a program, for brevity."""
    found: Used = []

    def traced(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        work = compilation.compiled.__wrapped__(function, **options)

        def noted(*arguments: Any) -> Any:
            result = work(*arguments)
            found.append(function.__name__)
            return result

        return noted

    monkeypatch.setattr(compilation, "_BACKEND", "aot_eager")
    monkeypatch.setattr(compiled, "compiled", functools.cache(traced))
    with warnings.catch_warnings():
        # torch's own, on what its compiler imports.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield found


class Net(nn.Module):
    """f(t, y) of dimension 3."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.dropout = nn.Linear(4, 16), nn.Linear(16, 3), nn.Dropout(dropout)
        self.uses, self.scale, self.offset = 0, 1.0, torch.zeros(3)

    def rate(self, t: Tensor, y: Tensor) -> Tensor:
        self.uses += 1
        hidden = torch.tanh(self.first(torch.cat([y, t.expand(len(y), 1)], 1)))
        return self.scale * self.last(self.dropout(hidden)) + self.offset

    def forward(self, t: Tensor, state: Any) -> Any:
        return self.rate(t, state)

    def with_divergence(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            if not y.requires_grad:
                y.requires_grad_(True)
            dy = self.rate(t, y)
            rows = [torch.autograd.grad(dy[:, i].sum(), y, create_graph=True)[0][:, i] for i in range(3)]
            return dy, -torch.stack(rows).sum(0)[:, None]


class InOneTensor(Net):
    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        return torch.cat(self.with_divergence(t, state[:, :3]), 1)


class InATuple(Net):
    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.with_divergence(t, state[0])


class Branching(Net):
    """Depends on the value of its time, which torch.compile has not."""

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        return self.rate(t, state) * (2.0 if float(t) > 0.5 else 1.0)


class Changed(Net):
    """Joins and narrows for itself, and changes in place what it has made that way."""

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        dy, divergence = self.with_divergence(t, state[:, :3])
        pieces = torch.cat((dy, dy.square()), 1)
        pieces.narrow(1, 0, 3).mul_(0.5)
        joined = torch.cat((dy, pieces[:, :3].sum(1, keepdim=True) + divergence), 1)
        joined.narrow(1, 0, 3).mul_(0.9)
        return torch.cat((joined[:, :3], joined.narrow(dim=1, start=3, length=1)), dim=-1)


Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
STATES: dict[type[Net], Any] = {
    Net: Y,
    InOneTensor: torch.cat([Y, torch.zeros(20, 1)], 1),
    InATuple: (Y, torch.zeros(20, 1)),
    Changed: torch.cat([Y, torch.zeros(20, 1)], 1),
}


def results(field: nn.Module, state: Any, keep: str = "stages", *, moving_times: bool = False) -> list[Tensor]:
    """The solution and all gradients of a loss."""
    field.zero_grad()
    parts = [x.clone().requires_grad_() for x in (state if isinstance(state, tuple) else (state,))]
    t = torch.linspace(0, 1, 3, requires_grad=moving_times)
    given = tuple(parts) if isinstance(state, tuple) else parts[0]
    solution = odeint_symplectic_adjoint(field, given, t, rtol=1e-4, atol=1e-5, keep=keep)
    outputs = solution if isinstance(solution, tuple) else (solution,)
    torch.stack([x.square().sum() for x in outputs]).sum().backward()
    inputs = [*parts, *field.parameters(), *([t] if moving_times else [])]
    return [*(x.detach() for x in outputs), *(x.grad for x in inputs if x.grad is not None)]


def agree(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max())) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("kind", STATES)
def test_a_compiled_field_gives_the_same_gradients_with_as_many_uses(kind: type[Net], used: Used) -> None:
    field, state = kind(), STATES[kind]
    expected, moving = results(field, state), results(field, state, moving_times=True)
    uses, field.uses = field.uses, 0
    field.compile()
    assert agree(results(field, state), expected)
    # All but the first one of backward.
    assert 2 * len(used) == uses - 2
    assert agree(results(field, state, moving_times=True), moving)
    assert field.uses == uses
    for keep in ("steps", "binomial(3)"):
        assert agree(results(field, state, keep), expected)


def products_in(work: Callable[[], object]) -> int:
    """How many products of matrices torch computes."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    return sum(event.count for event in found.key_averages() if event.key in {"aten::mm", "aten::addmm"})


@pytest.mark.parametrize("kind", [InOneTensor, InATuple])
def test_no_zeros_are_pulled_through_a_divergence(kind: type[Net], monkeypatch: pytest.MonkeyPatch) -> None:
    """dopri5's second stage weighs the slope alone."""
    field, state = kind(), STATES[kind]
    expected = results(field, state)
    plain = products_in(lambda: results(field, state))
    field.compile()
    assert agree(results(field, state), expected)
    found = products_in(lambda: results(field, state))
    monkeypatch.setattr(compiled, "_take_first_parts", lambda graph: None)
    results(field, state)
    assert found < products_in(lambda: results(field, state))
    assert found <= plain


def test_a_module_that_torch_compile_has_wrapped_is_taken_likewise(used: Used) -> None:
    state = STATES[InOneTensor]
    assert agree(results(torch.compile(InOneTensor()), state), results(InOneTensor(), state))
    assert {"_slope", "_pull"} == set(used)


@pytest.mark.filterwarnings("error:torch.compile does not take this")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler, which inductor needs")
def test_inductors_programs_differ_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_BACKEND", "inductor")
    field, state = InOneTensor(), STATES[InOneTensor]
    expected = results(field, state)
    field.compile()
    found = results(field, state)
    assert agree(found, expected)
    assert not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_the_field_holds_may_change_between_solves() -> None:
    field, plain, state = InOneTensor(), InOneTensor(), STATES[InOneTensor]
    field.compile()
    results(field, state)
    for scale, offset in ((2.0, 1.0), (0.5, -0.3)):
        for each in (field, plain):
            each.scale, each.offset = scale, torch.full((3,), offset)
        assert agree(results(field, state), results(plain, state))
    smaller = state[:7]
    assert agree(results(field, smaller), results(plain, smaller))


def test_a_field_that_draws_is_used_as_it_is() -> None:
    field, state = Net(dropout=0.3), STATES[Net]
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        solution = solve(field, state, torch.tensor([0.0, 1.0]), solver="rk4", controller="fixed")
        solution.ys.square().sum().backward()
        found.append([solution.ys.detach(), *(p.grad.clone() for p in field.parameters() if p.grad is not None)])
        field.zero_grad()
        field.compile()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_field_that_torch_does_not_take_is_used_as_it_is_and_named_once() -> None:
    field, state = Branching(), STATES[Net]
    expected = results(field, state)
    field.compile()
    with pytest.warns(RuntimeWarning, match="does not take this Branching, which is used as it is") as caught:
        found = [results(field, state) for _ in range(2)]
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    for each in found:
        assert all(torch.equal(a, b) for a, b in zip(each, expected, strict=True))


def test_a_field_that_depends_on_what_was_not_found_is_refused_as_without_compile() -> None:
    class Leaking(Net):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.Linear(3, 3)]

        def forward(self, t: Tensor, state: Tensor) -> Tensor:
            return self.rate(t, state) + self.hidden[0](state)

    field = Leaking()
    field.compile()
    with pytest.raises(RuntimeError, match="require grad and were not found before the solve"):
        results(field, STATES[Net])


def test_a_gradient_of_the_field_that_is_its_own_cotangent_is_summed_right() -> None:
    class Shifted(nn.Module):
        """f = y + p: the cotangent of f is that of y and of p, in one tensor."""

        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(20, 3))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y + self.shift

    field = Shifted()
    expected = results(field, Y)
    field.compile()
    assert agree(results(field, Y), expected)


def test_forward_mode_through_a_compiled_field_is_that_of_the_plain_one() -> None:
    field, tangents = Net(), []
    for _ in range(2):
        with torch.no_grad(), forward_ad.dual_level():
            y0 = forward_ad.make_dual(Y, torch.ones_like(Y))
            ys = solve(field, y0, torch.tensor([0.0, 1.0]), solver="rk4", controller="fixed").ys
            tangents.append(forward_ad.unpack_dual(ys).tangent)
        field.compile()
    assert tangents[0].abs().min() > 0
    assert torch.equal(*tangents)


def test_a_field_without_compile_is_not_compiled(used: Used) -> None:
    results(InOneTensor(), STATES[InOneTensor])
    assert not used
