"""Plain backpropagation through every step: exact, fastest, and its graph memory grows with the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from symadj_core.gradients.base import GradientMethod
from symadj_core.solvers.problem import Problem
from symadj_core.solvers.timeloop import Outputs, march


@dataclass(frozen=True)
class Backprop(GradientMethod):
    """Keeps the whole graph: memory O(N s L) for N steps, s stages and a field graph of L. Differentiable twice."""

    name: ClassVar[str] = "backprop"
    holds_graph: ClassVar[bool] = True
    needs_parameters: ClassVar[bool] = False

    def integrate(self, problem: Problem, outputs: Outputs) -> tuple[Tensor, Tensor | None]:
        t = problem.t if problem.t.requires_grad else None
        march(problem, outputs, lambda record, step: None, t)
        return outputs.stacked()
