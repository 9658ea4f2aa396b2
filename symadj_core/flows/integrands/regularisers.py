"""Regularisers of a flow: integrals along the trajectories, taken as quadratures beside the log-determinant.

    kinetic             |f|^2                           Finlay et al., RNODE, ICML 2020, arXiv 2002.02798
    jacobian_frobenius  |df/dy|_F^2                     likewise; from the products that the divergence takes anyway
    transport           |f|^2 / 2                       Onken et al., OT-Flow, AAAI 2021, arXiv 2006.00104
    hjb                 |dPhi/dt - |grad_y Phi|^2 / 2|  likewise; for fields f = -grad_y Phi

With Hutchinson's divergence the Jacobian's norm is estimated by the same probes e, as |e^T J|^2 or, where the field
knows its derivative in closed form, |J e|^2: both have the expectation |J|_F^2. With the exact divergence it is exact,
or estimated by one probe where the trace has a closed form and takes no products along the unit vectors.

A regulariser is a class, named in `REGULARISERS`. One that is a weighted sum of |f|^2 / 2 and |df/dy|_F^2 says so by
`column`, and is then taken in closed form where the field has one; any other is taken by autograd.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from symadj_core.flows.fields.closed_form import Column, PerceptronRates
from symadj_core.flows.integrands.divergence import Divergence
from symadj_core.flows.integrands.probes import ProbeKey
from symadj_core.registry import Registry
from symadj_core.solvers.system import Field, Rates


@runtime_checkable
class HasPotential(Protocol):
    """A field f = -grad_y Phi."""

    def hamilton_jacobi(self, t: Tensor, y: Tensor) -> Tensor:
        """dPhi/dt - |grad_y Phi|^2 / 2, [B]: zero along optimal trajectories."""


@dataclass
class Place:
    """A point on the trajectories at which the field has been evaluated.

    Attributes:
        field: f.
        t: the time, 0-dim.
        y: the states [B, D].
        f: f(t, y) [B, D].
        norm: |df/dy|_F^2 [B], for regularisers that ask for it.
    """

    field: Field
    t: Tensor
    y: Tensor
    f: Tensor
    norm: Tensor | None

    @cached_property
    def half_energy(self) -> Tensor:
        """|f|^2 / 2, [B]."""
        return 0.5 * self.f.square().sum(-1)


class Regulariser(ABC):
    """An integral along a trajectory.

    Attributes:
        name: in `REGULARISERS`.
        column: the rate as a weighted sum of |f|^2 / 2 and |df/dy|_F^2; None if it is another function.
    """

    name: ClassVar[str]
    column: ClassVar[Column | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A class that changes the rate of another must not be taken by the other's closed form.
        if "rate" in cls.__dict__ and "column" not in cls.__dict__:
            cls.column = None

    @property
    def needs_norm(self) -> bool:
        """Whether the rate needs the norm of the Jacobian."""
        return self.column is not None and self.column.norm != 0.0

    def check(self, divergence: Divergence, field: object) -> None:
        """Refuse a divergence or a field that does not give what the rate needs.

        Raises:
            ValueError: one of them does not.
        """
        if self.needs_norm and not divergence.gives_norm:
            raise ValueError(
                f"the divergence {divergence.name!r} gives no norm of the Jacobian: take 'hutchinson' or 'exact'"
            )

    @abstractmethod
    def rate(self, place: Place) -> Tensor:
        """What is integrated, [B], differentiable where grad mode is on."""


class _Quadratic(Regulariser):
    """A weighted sum of |f|^2 / 2 and |df/dy|_F^2."""

    def rate(self, place: Place) -> Tensor:
        assert self.column is not None
        if not self.needs_norm:
            return self.column.energy * place.half_energy
        assert place.norm is not None
        norm = self.column.norm * place.norm
        return norm if self.column.energy == 0.0 else self.column.energy * place.half_energy + norm


class Kinetic(_Quadratic):
    """|f|^2."""

    name = "kinetic"
    column = Column(energy=2.0)


class JacobianFrobenius(_Quadratic):
    """|df/dy|_F^2."""

    name = "jacobian_frobenius"
    column = Column(norm=1.0)


class Transport(_Quadratic):
    """|f|^2 / 2."""

    name = "transport"
    column = Column(energy=1.0)


class HamiltonJacobiBellman(Regulariser):
    """|dPhi/dt - |grad_y Phi|^2 / 2| of a field f = -grad_y Phi."""

    name = "hjb"

    def check(self, divergence: Divergence, field: object) -> None:
        if not isinstance(field, HasPotential):
            raise ValueError(f"the regulariser 'hjb' needs the gradient of a potential, not {type(field).__name__}")

    def rate(self, place: Place) -> Tensor:
        assert isinstance(place.field, HasPotential)
        return place.field.hamilton_jacobi(place.t, place.y).abs()


REGULARISERS: Registry[Regulariser] = Registry(
    "regulariser",
    {kind.name: kind() for kind in (Kinetic, JacobianFrobenius, Transport, HamiltonJacobiBellman)},
)


def by_names(names: Sequence[str]) -> list[Regulariser]:
    """The regularisers of these names, in their order.

    Raises:
        ValueError: an unknown or repeated name.
    """
    found = [REGULARISERS[name] for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"regularisers {', '.join(names)} are repeated: name each once")
    return found


def regularised_rates(
    divergence: Divergence,
    field: Field,
    key: ProbeKey,
    sample_index: Tensor,
    like: Tensor,
    regularisers: Sequence[Regulariser],
) -> Rates:
    """(t, y) -> (f, rates of the log-determinant and of the regularisers), as `Divergence.rates`.

    Args:
        regularisers: in the order of their columns. With none the rates beside f are [B], else [B, 1 + R].
    """
    with_norm = any(regulariser.needs_norm for regulariser in regularisers)
    of = divergence.jacobian_rates if with_norm else divergence.rates
    inner = of(field, key, sample_index, like)
    if not regularisers:
        return inner
    columns = [regulariser.column for regulariser in regularisers]
    if isinstance(inner, PerceptronRates) and None not in columns:
        return inner.also([column for column in columns if column is not None])

    def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f, found = inner(t, y)
        trace, norm = (found[:, 0], found[:, 1]) if with_norm else (found, None)
        place = Place(field, t, y, f, norm)
        return f, torch.stack([trace, *(regulariser.rate(place) for regulariser in regularisers)], -1)

    return rates
