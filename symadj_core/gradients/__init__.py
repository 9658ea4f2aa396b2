"""The gradient methods, by name.

backprop       whole graph kept; exact, fastest, most memory
onecheckpoint  y0 kept, solved again with its graph; exact
aca            every state kept, one step's graph at a time; exact
symplectic     every state (and stage state) kept, one stage's graph at a time; exact, least memory
adjoint        adjoint ODE solved backward; not exact
"""

from __future__ import annotations

from typing import Any

from symadj_core.gradients.aca import ACA
from symadj_core.gradients.adjoint import Adjoint
from symadj_core.gradients.backprop import Backprop
from symadj_core.gradients.base import GradientMethod
from symadj_core.gradients.onecheckpoint import OneCheckpoint
from symadj_core.gradients.symplectic import Symplectic
from symadj_core.registry import Classes

GRADIENTS: Classes[GradientMethod] = Classes(
    "gradient", {method.name: method for method in (Backprop, OneCheckpoint, ACA, Symplectic, Adjoint)}
)

__all__ = [
    "ACA",
    "GRADIENTS",
    "Adjoint",
    "Backprop",
    "GradientMethod",
    "OneCheckpoint",
    "Symplectic",
    "by_name",
]


def by_name(name: str, **options: Any) -> GradientMethod:
    """The gradient method of that name, with its options, e.g. `by_name("symplectic", keep="steps")`.

    Raises:
        ValueError: no such method, or a value that it does not take.
        TypeError: it has no such option.
    """
    return GRADIENTS.make(name, **options)
