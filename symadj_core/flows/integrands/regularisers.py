"""Regularisers of a flow: integrals along the trajectories, taken as quadratures beside the log-determinant.

    kinetic             |f|^2                           Finlay et al., RNODE, ICML 2020, arXiv 2002.02798
    jacobian_frobenius  |df/dy|_F^2                     likewise; from the products that the divergence takes anyway
    transport           |f|^2 / 2                       Onken et al., OT-Flow, AAAI 2021, arXiv 2006.00104
    hjb                 |dPhi/dt - |grad_y Phi|^2 / 2|  likewise; for fields f = -grad_y Phi

With Hutchinson's divergence the Jacobian's norm is estimated by the same probes e, as |e^T J|^2 or, where the field
knows its derivative in closed form, |J e|^2: both have the expectation |J|_F^2. With the exact divergence it is exact,
or estimated by one probe where the trace has a closed form and takes no products along the unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from symadj_core.flows.fields.closed_form import PerceptronRates
from symadj_core.flows.integrands.divergence import Divergence
from symadj_core.flows.integrands.probes import ProbeKey
from symadj_core.solvers.system import Field, Rates

REGULARISERS = ("kinetic", "jacobian_frobenius", "transport", "hjb")


@runtime_checkable
class HasPotential(Protocol):
    """A field f = -grad_y Phi."""

    def hamilton_jacobi(self, t: Tensor, y: Tensor) -> Tensor:
        """dPhi/dt - |grad_y Phi|^2 / 2, [B]: zero along optimal trajectories."""


def check(names: Sequence[str], divergence: Divergence, field: object) -> None:
    """Refuse regularisers that a field and its divergence do not give.

    Raises:
        ValueError: an unknown or repeated name, "hjb" for a field without a potential, or "jacobian_frobenius" with a
            divergence that does not give it.
    """
    for name in names:
        if name not in REGULARISERS:
            raise ValueError(f"unknown regulariser {name!r}: there are {', '.join(REGULARISERS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"regularisers {', '.join(names)} are repeated: name each once")
    if "hjb" in names and not isinstance(field, HasPotential):
        raise ValueError(f"the regulariser 'hjb' needs the gradient of a potential, not {type(field).__name__}")
    if "jacobian_frobenius" in names and type(divergence).jacobian_rates is Divergence.jacobian_rates:
        raise ValueError(
            f"the divergence {divergence.name!r} gives no norm of the Jacobian: take 'hutchinson' or 'exact'"
        )


def regularised_rates(
    divergence: Divergence, field: Field, key: ProbeKey, sample_index: Tensor, like: Tensor, names: Sequence[str]
) -> Rates:
    """(t, y) -> (f, rates of the log-determinant and of the regularisers), as `Divergence.rates`.

    Args:
        names: the regularisers, in the order of their columns. With none the rates beside f are [B], else [B, 1 + R].
    """
    with_norm = "jacobian_frobenius" in names
    of = divergence.jacobian_rates if with_norm else divergence.rates
    inner = of(field, key, sample_index, like)
    if not names:
        return inner
    if isinstance(inner, PerceptronRates):
        return inner.also(names)

    def rates(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f, found = inner(t, y)
        columns = {"jacobian_frobenius": found[:, 1]} if with_norm else {}
        energy = f.square().sum(-1)
        columns |= {"kinetic": energy, "transport": 0.5 * energy}
        if "hjb" in names:
            assert isinstance(field, HasPotential)
            columns["hjb"] = field.hamilton_jacobi(t, y).abs()
        return f, torch.stack([found[:, 0] if with_norm else found, *(columns[name] for name in names)], -1)

    return rates
