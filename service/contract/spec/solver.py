"""How the model's ODE is solved, and how the solve is differentiated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from symadj.service.contract.spec.section import MemorySize, Section

# Of one solve; more than any training needs.
MOST_ADAPTIVE_STEPS = 1_000_000
MOST_FIXED_STEPS = 100_000


class AdaptiveSolver(Section):
    """An embedded Runge-Kutta pair with step-size control."""

    kind: Literal["adaptive"] = "adaptive"
    method: Literal["adaptive_heun", "fehlberg2", "bosh3", "dopri5", "tsit5", "dopri8"] = Field(
        "dopri5", description="The Runge-Kutta pair, of order 2 (adaptive_heun, fehlberg2), 3, 5, 5 and 8."
    )
    rtol: float = Field(1e-5, gt=0, le=1, description="Relative tolerance of a step's error.")
    atol: float = Field(
        1e-6, gt=0, le=1, description="Absolute tolerance of a step's error, in the units of the transformed rows."
    )
    max_steps: int = Field(1000, ge=1, le=MOST_ADAPTIVE_STEPS, description="Attempted steps of one solve, at most.")
    shared_steps: bool = Field(
        False,
        description="All workers take the same steps in training, by the error over all of their rows, so that the "
        "gradient is that of one worker with the whole batch; it costs an exchange in every step. false: each takes "
        "those of its own rows.",
    )


class FixedSolver(Section):
    """A Runge-Kutta method with a fixed number of equal steps."""

    kind: Literal["fixed"]
    method: Literal["euler", "midpoint", "heun2", "heun3", "rk4", "rk4_38"] = Field(
        "rk4", description="The Runge-Kutta method, of order 1, 2, 2, 3, 4 and 4."
    )
    steps: int = Field(20, ge=1, le=MOST_FIXED_STEPS, description="Steps of one solve over one block.")


Solver = Annotated[AdaptiveSolver | FixedSolver, Field(discriminator="kind")]


class KeepStages(Section):
    """Every stage's state: nothing is computed again."""

    kind: Literal["stages"] = "stages"


class KeepSteps(Section):
    """Every step's state, as in the paper: its stages are computed again."""

    kind: Literal["steps"]


class KeepBinomial(Section):
    """At most so many states: segments of the solve are computed again (by Griewank and Walther's schedule for fixed
    steps, by Wang, Moin and Iaccarino's for adaptive ones)."""

    kind: Literal["binomial"]
    states: int = Field(8, ge=2, le=1_000_000, description="Of one block's solve, on one worker.")


class KeepBudget(Section):
    """What saves most recomputation within so many bytes."""

    kind: Literal["budget"]
    size: MemorySize = Field(description="For the states of one block's solve, on one worker.")


Keep = Annotated[KeepStages | KeepSteps | KeepBinomial | KeepBudget, Field(discriminator="kind")]


class _Gradient(Section):
    def refused(self, solver: Solver) -> tuple[str, str] | None:
        """Return the field that makes no sense with ``solver``, and why; None if all make sense."""
        return None


class SymplecticGradient(_Gradient):
    """Symplectic adjoint method (Matsubara et al. 2021): exact, one stage's graph at a time."""

    kind: Literal["symplectic"] = "symplectic"
    keep: Keep = Field(
        KeepStages(), description="What of a solve is kept for the backward pass; the rest is computed again."
    )


class BackpropGradient(_Gradient):
    """Plain backpropagation through the solver: exact, keeps every use of the network."""

    kind: Literal["backprop"]


class OneCheckpointGradient(_Gradient):
    """Keep the initial state and solve again with the graph: exact."""

    kind: Literal["onecheckpoint"]


class AcaGradient(_Gradient):
    """Adaptive checkpoint adjoint (Zhuang et al. 2020): keep every step, rebuild one step's graph: exact."""

    kind: Literal["aca"]


class AdjointGradient(_Gradient):
    """Continuous adjoint (Chen et al. 2018): a backward ODE solve; not exact."""

    kind: Literal["adjoint"]
    rtol: float | None = Field(None, gt=0, le=1, description="Of the backward solve; null: the forward one's.")
    atol: float | None = Field(None, gt=0, le=1, description="Of the backward solve; null: the forward one's.")

    def refused(self, solver: Solver) -> tuple[str, str] | None:
        for name in ("rtol", "atol"):
            if solver.kind == "fixed" and getattr(self, name) is not None:
                return name, (
                    f"gradient.{name} is the tolerance of an adaptive backward solve; solver.kind fixed has none: "
                    "leave it out, or take solver.kind adaptive"
                )
        return None


NamedGradient = SymplecticGradient | BackpropGradient | OneCheckpointGradient | AcaGradient | AdjointGradient


class AutoGradient(_Gradient):
    """The symplectic adjoint, keeping as many states as `resources.memory_budget` has room for: the bits of the
    gradient do not depend on it. On an accelerator, as many as its own memory has room for."""

    kind: Literal["auto"]


Gradient = Annotated[NamedGradient | AutoGradient, Field(discriminator="kind")]
