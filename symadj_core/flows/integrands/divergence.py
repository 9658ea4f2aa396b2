"""The divergence of a vector field, exact or estimated, beside the field itself.

All of them return (f, div f) of one use of the field. Where the caller is in no_grad mode, as the forward solve is,
no second-order graph is built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from symadj_core.autograd_engine import pulled_back
from symadj_core.compilation import is_to_be_compiled, uncompiled
from symadj_core.flows.fields.base import KnowsDerivative, KnowsTrace
from symadj_core.flows.fields.closed_form import AlongProbes, Column, PerceptronRates
from symadj_core.flows.fields.closed_trace import ExactTrace
from symadj_core.flows.integrands.probes import Distribution, ProbeKey, check_distribution, draw
from symadj_core.registry import Classes
from symadj_core.solvers.system import Field, Rates, as_slope


class Divergence(ABC):
    """A way to compute or estimate div f = tr df/dy."""

    name: ClassVar[str]

    @property
    def gives_norm(self) -> bool:
        """Whether `jacobian_rates` gives the norm of the Jacobian."""
        return type(self).jacobian_rates is not Divergence.jacobian_rates

    @abstractmethod
    def rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        """The function (t, y) -> (f(t, y) [B, D], div f(t, y) [B]) for one whole solve.

        Args:
            field: f; must treat the samples of a batch independently.
            key: seed, step and block, for estimates that draw probes; they are held fixed for the solve.
            sample_index: [B] int64.
            like: [B, D], gives dimension, dtype and device.
        """

    def jacobian_rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        """Likewise (t, y) -> (f, [B, 2]): the divergence, and the squared Frobenius norm of df/dy by the same products.

        Raises:
            ValueError: this divergence does not give that norm.
        """
        raise ValueError(f"the divergence {self.name!r} gives no norm of the Jacobian: take 'hutchinson' or 'exact'")

    def check(self, dim: int) -> None:  # noqa: B027 - most work in any
        """Refuse dimensions D in which this divergence does not work.

        Raises:
            ValueError: D is one of them.
        """


def _uncompiled(field: Field) -> Field:
    """The field without torch.compile, whose graphs can't be differentiated twice nor batched."""
    modules = field.modules() if isinstance(field, nn.Module) else ()
    if not any(is_to_be_compiled(module) for module in modules):
        return field

    def eager(t: Tensor, y: Tensor) -> Tensor:
        with uncompiled():
            return field(t, y)

    return eager


def _with_input(field: Field, t: Tensor, y: Tensor, *, differentiable: bool) -> tuple[Tensor, Tensor]:
    """y as a tensor that requires grad, and f(t, y) with a graph to it."""
    # A view that was made under no_grad may say that it requires grad, and is part of no graph nevertheless.
    y = y if differentiable and y.requires_grad else y.detach().requires_grad_()
    dy = as_slope(field(t, y), y)
    # A field that ignores y and has no parameters yet needs a graph for its (zero) divergence to be taken.
    return y, dy if dy.requires_grad else dy + 0.0 * y


def _products(dy: Tensor, y: Tensor, vectors: Tensor, *, batched: bool, differentiable: bool, last: bool) -> Tensor:
    """v^T df/dy for the vectors v [K, B, D], [K, B, D]; the graph of dy is freed if this is its last use."""

    def products(v: Tensor, retain: bool) -> Tensor:
        (rows,) = pulled_back([dy], [v], [y], create_graph=differentiable, retain_graph=retain, batched=batched)
        if rows is None:  # f does not depend on y.
            rows = torch.zeros_like(v, requires_grad=differentiable)
        return rows

    if batched:
        return products(vectors, not last)
    return torch.stack([products(v, not last or k + 1 < len(vectors)) for k, v in enumerate(vectors)])


def _by_autograd(field: Field, vectors: Tensor, share: float, *, norm: bool, batched: bool) -> Rates:
    """f, and share * sum over the vectors v [K, B, D] of v^T J v and, with `norm`, of |v^T J|^2 beside it, [B, 2]."""
    field = _uncompiled(field)

    def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            y, dy = _with_input(field, t, y, differentiable=differentiable)
            rows = _products(dy, y, vectors, batched=batched, differentiable=differentiable, last=True)
            result = (rows * vectors).sum(-1).sum(0) * share
            if norm:
                result = torch.stack([result, rows.square().sum(-1).sum(0) * share], -1)
        return (dy, result) if differentiable else (dy.detach(), result.detach())

    return rates


def _along(field: Field, noise: Tensor, rates: Rates, share: float, *, norm: bool) -> Rates:
    """The rates in closed form, if the field has one for them."""
    if not isinstance(field, KnowsDerivative):
        return rates
    known = field.along(noise, rates, share=share)
    if not norm:
        return known
    return known.also((Column(norm=1.0),)) if isinstance(known, PerceptronRates) else rates


@dataclass(frozen=True)
class Exact(Divergence):
    """tr df/dy: in closed form for fields that have one, by D vector-Jacobian products in one batched call for others.

    A perceptron of one or two hidden layers takes no more than Hutchinson's estimate with one probe, whatever D is; of
    more, D times as much; a potential as `flows.fields.potential` says. By VJPs the cost is (1 + D) F, the memory
    D times a sample's graph.
    """

    name: ClassVar[str] = "exact"

    def rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        rates = _by_autograd(field, _basis(like).expand(-1, len(like), -1), 1.0, norm=False, batched=True)
        return field.traced(like, rates) if isinstance(field, KnowsTrace) else rates

    def jacobian_rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        """The norm is exact where the trace takes D products anyway, and an estimate by one probe where it does not."""
        basis = _basis(like)
        rates = _by_autograd(field, basis.expand(-1, len(like), -1), 1.0, norm=True, batched=True)
        traced = field.traced(like, rates) if isinstance(field, KnowsTrace) else rates
        if traced is rates or isinstance(traced, AlongProbes):
            return _along(field, basis, rates, 1.0, norm=True)
        if isinstance(traced, ExactTrace):
            return traced.with_norm(draw("rademacher", key, sample_index, like.shape[-1], dtype=like.dtype))
        estimate = Hutchinson().jacobian_rates(field, key, sample_index, like)

        def both(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            f, trace = traced(t, y)
            return f, torch.stack([trace, estimate(t, y)[1][:, 1]], -1)

        return both


def _basis(like: Tensor) -> Tensor:
    """The unit vectors, [D, 1, D]."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)[:, None, :]


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """Mean of e^T (df/dy) e over random probes e (Hutchinson 1989; Grathwohl et al., FFJORD, ICLR 2019): unbiased.

    Attributes:
        distribution: "rademacher" or "gaussian"; Rademacher has the smaller variance.
        probes: number of probes; each costs one vector-Jacobian product.
    """

    distribution: Distribution = "rademacher"
    probes: int = 1
    name: ClassVar[str] = "hutchinson"

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"probes must be at least 1, not {self.probes}")
        check_distribution(self.distribution)

    def rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        return self._rates(field, key, sample_index, like, norm=False)

    def jacobian_rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        return self._rates(field, key, sample_index, like, norm=True)

    def _rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor, *, norm: bool) -> Rates:
        noise = draw(self.distribution, key, sample_index, like.shape[-1], probes=self.probes, dtype=like.dtype)
        share = 1.0 / self.probes
        return _along(field, noise, _by_autograd(field, noise, share, norm=norm, batched=False), share, norm=norm)


@dataclass(frozen=True)
class HutchPlusPlus(Divergence):
    """Hutch++ (Meyer, Musco, Musco and Woodruff, SOSA 2021, arXiv 2010.09649), sample by sample: unbiased.

    With A = (df/dy)^T, k = probes / 3, probes S and G [D, k] and Q an orthonormal basis of A S:

        tr A ~ tr Q^T A Q + 1/k tr G^T (I - Q Q^T) A (I - Q Q^T) G

    The first part is exact; only what A does outside the k directions of Q is estimated. Q is a constant for the
    gradient: since the estimate is unbiased whatever Q is, the gradient is unbiased too, and fields of low rank, where
    Q has no derivative, give no NaN.

    Attributes:
        distribution: of S and G, "rademacher" or "gaussian".
        probes: vector-Jacobian products of a use of the field, a multiple of 3 below D.
    """

    distribution: Distribution = "rademacher"
    probes: int = 3
    name: ClassVar[str] = "hutchpp"

    def __post_init__(self) -> None:
        if self.probes < 3 or self.probes % 3:
            raise ValueError(f"probes must be a multiple of 3 and at least 3, not {self.probes}")
        check_distribution(self.distribution)

    def check(self, dim: int) -> None:
        if self.probes >= dim:
            raise ValueError(
                f"hutchpp with {self.probes} probes must be below the dimension {dim}: {dim} products give the exact "
                "trace, so take 'exact' or fewer probes"
            )

    def rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        self.check(like.shape[-1])
        field = _uncompiled(field)
        third = self.probes // 3
        noise = draw(self.distribution, key, sample_index, like.shape[-1], probes=2 * third, dtype=like.dtype)
        sketch, rest = noise[:third], noise[third:].permute(1, 2, 0)

        def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            differentiable = torch.is_grad_enabled()
            with torch.enable_grad():
                y, dy = _with_input(field, t, y, differentiable=differentiable)
                sketched = _products(dy, y, sketch, batched=True, differentiable=False, last=False)
                q = torch.linalg.qr(sketched.permute(1, 2, 0))[0]
                outside = rest - q @ (q.mT @ rest)
                vectors = torch.cat([q, outside], -1).permute(2, 0, 1)
                rows = _products(dy, y, vectors, batched=True, differentiable=differentiable, last=True)
                terms = (rows * vectors).sum(-1)
                trace = terms[:third].sum(0) + terms[third:].sum(0) / third
            return (dy, trace) if differentiable else (dy.detach(), trace.detach())

        return rates


DIVERGENCES: Classes[Divergence] = Classes(
    "divergence", {kind.name: kind for kind in (Exact, Hutchinson, HutchPlusPlus)}
)


def by_name(name: str, **options: object) -> Divergence:
    """The divergence of that name, e.g. `by_name("hutchinson", distribution="gaussian", probes=2)`.

    Raises:
        ValueError: no such divergence, or a value that it does not take.
        TypeError: it has no such option.
    """
    return DIVERGENCES.make(name, **options)
