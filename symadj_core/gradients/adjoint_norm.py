"""Error norms of the continuous adjoint's backward solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symadj_core.solvers.controller import Norm

# Takes (zero in place of the time's adjoint, y, lambda, one tensor a parameter), as torchdiffeq's adjoint norms do.
AugmentedNorm = Callable[[tuple[Tensor, ...]], Tensor]


@dataclass(frozen=True)
class MixedNorm:
    """The largest of the norms of y, of lambda and (unless they are left out) of each parameter's gradient.

    Attributes:
        state: norm of y and of lambda: that of the forward solve.
        shapes: shapes of the parameters, in the order in which their gradients lie in the flat quadrature.
        custom: used instead, on all parts.
    """

    state: Norm
    shapes: tuple[torch.Size, ...]
    custom: AugmentedNorm | None = None

    def __call__(self, parts: Sequence[Tensor]) -> Tensor:
        y, adjoint = parts[0]
        if self.custom is not None:
            # The first step size is chosen from the state alone: the parameters' part is zero then.
            flat = parts[1] if len(parts) > 1 else y.new_zeros(sum(s.numel() for s in self.shapes))
            pieces = torch.split(flat, [s.numel() for s in self.shapes])
            shaped = (x.view(s) for x, s in zip(pieces, self.shapes, strict=True))
            return self.custom((y.real.new_zeros(()), y, adjoint, *shaped))
        norms = [self.state([y]), self.state([adjoint])]
        if len(parts) > 1:
            pieces = torch.split(parts[1], [s.numel() for s in self.shapes])
            norms += [torch.linalg.vector_norm(x) / x.numel() ** 0.5 for x in pieces if x.numel() > 0]
        return torch.stack([x.to(norms[0]) for x in norms]).max()
