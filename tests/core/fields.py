"""Fields that several tests use."""

from __future__ import annotations

from typing import Any

import torch

from symadj_core.flows import PotentialField


def steep_potential(dim: int, *sizes: int, zero_init: bool = False, **options: Any) -> PotentialField:
    """A potential of which every part moves the state, as those that are trained do and a new one does not."""
    field = PotentialField(dim, *sizes, zero_init=zero_init, **options)
    if not zero_init:
        with torch.no_grad():
            field.weight.fill_(1.0)
            field.curvature.fill_(1.0)
            field.slope.fill_(0.1)
    return field
