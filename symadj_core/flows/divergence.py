"""The divergence of a vector field, exact or estimated, beside the field itself.

All of them return (f, div f) of one use of the field. Where the caller is in no_grad mode, as the forward solve is,
no second-order graph is built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from symadj_core.flows.probes import Distribution, ProbeKey, draw
from symadj_core.system import Field, Rates


class Divergence(ABC):
    """A way to compute or estimate div f = tr df/dy."""

    name: ClassVar[str]

    @abstractmethod
    def rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        """The function (t, y) -> (f(t, y) [B, D], div f(t, y) [B]) for one whole solve.

        Args:
            field: f; must treat the samples of a batch independently.
            key: seed, step and block, for estimates that draw probes; they are held fixed for the solve.
            sample_index: [B] int64.
            like: [B, D], gives dimension, dtype and device.
        """


@runtime_checkable
class ClosedForm(Protocol):
    """A field that knows the derivative along probes without autograd."""

    def along(self, noise: Tensor, differentiable: Rates) -> Rates:
        """Rates equal to `differentiable`, which takes the derivative along `noise` [K, B, D] by autograd."""


def _with_input(field: Field, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """y as a tensor that requires grad, and f(t, y) with a graph to it."""
    y = y if y.requires_grad else y.detach().requires_grad_()
    dy = field(t, y)
    # A field that ignores y and has no parameters yet needs a graph for its (zero) divergence to be taken.
    return y, dy if dy.requires_grad else dy + 0.0 * y


@dataclass(frozen=True)
class Exact(Divergence):
    """tr df/dy by D vector-Jacobian products in one batched call: cost (1 + D) F, memory D times a sample's graph."""

    name: ClassVar[str] = "exact"

    def rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        dim = like.shape[-1]
        basis = torch.eye(dim, dtype=like.dtype, device=like.device)[:, None, :].expand(dim, len(like), dim)

        def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            differentiable = torch.is_grad_enabled()
            with torch.enable_grad():
                y, dy = _with_input(field, t, y)
                (rows,) = torch.autograd.grad(
                    dy, y, basis, create_graph=differentiable, is_grads_batched=True, materialize_grads=True
                )
                trace = rows.diagonal(dim1=0, dim2=2).sum(-1)
            return (dy, trace) if differentiable else (dy.detach(), trace.detach())

        return rates


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

    def rates(self, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor) -> Rates:
        noise = draw(self.distribution, key, sample_index, like.shape[-1], probes=self.probes, dtype=like.dtype)

        def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            differentiable = torch.is_grad_enabled()
            with torch.enable_grad():
                y, dy = _with_input(field, t, y)
                trace = None
                for k, probe in enumerate(noise):
                    more = k + 1 < len(noise)
                    (row,) = torch.autograd.grad(
                        dy,
                        y,
                        probe,
                        create_graph=differentiable,
                        retain_graph=differentiable or more,
                        materialize_grads=True,
                    )
                    term = (row * probe).sum(-1)
                    trace = term if trace is None else trace + term
                assert trace is not None
                trace = trace / self.probes if self.probes > 1 else trace
            return (dy, trace) if differentiable else (dy.detach(), trace.detach())

        return field.along(noise, rates) if isinstance(field, ClosedForm) else rates


DIVERGENCES: dict[str, type[Divergence]] = {kind.name: kind for kind in (Exact, Hutchinson)}


def by_name(name: str, **options: object) -> Divergence:
    """The divergence of that name, e.g. `by_name("hutchinson", distribution="gaussian", probes=2)`.

    Raises:
        ValueError: no such divergence, or a value that it does not take.
        TypeError: it has no such option.
    """
    try:
        kind = DIVERGENCES[name]
    except KeyError:
        raise ValueError(f"unknown divergence {name!r}: there are {', '.join(DIVERGENCES)}") from None
    return kind(**options)
