"""The continuous adjoint (Chen et al., NeurIPS 2018): integrate the adjoint ODE backward in time. Not exact.

State and adjoint, z = (y, lambda), are the state of the backward solve; the parameter gradient feeds back into
nothing and is its quadrature. Leaving it out of the error norm is the seminorm of Kidger, Chen and Lyons (ICML 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from symadj_core.gradients.adjoint_norm import AugmentedNorm, MixedNorm
from symadj_core.gradients.base import Cotangents, InputGradients, Replay, ReplayMethod
from symadj_core.gradients.keep import Nothing, Recorder
from symadj_core.gradients.pullback import Pullback
from symadj_core.gradients.regraph import add, total_quadrature
from symadj_core.solvers.controller import AdaptiveController, Controller
from symadj_core.solvers.precision import Precision
from symadj_core.solvers.problem import Callbacks, Problem, Stats
from symadj_core.solvers.system import System
from symadj_core.solvers.tableaus import TABLEAUS, ButcherTableau
from symadj_core.solvers.timeloop import Outputs, SolverStep, march


@dataclass(frozen=True)
class Adjoint(ReplayMethod):
    """The gradient of the continuous problem, wrong by the error of both solves; checkpoints O(1).

    Attributes:
        seminorm: leave the parameter gradient out of the backward solve's error norm.
        solver: method of the backward solve; None is the forward one's.
        controller: step sizes of the backward solve; None is the forward one's. Its norm is applied to y and lambda.
        rtol, atol: tolerances in place of that controller's.
        norm: error norm in place of the largest of y's, lambda's and the parameters'.
        callbacks: called with every backward step, with z = (y, lambda) as one tensor [2, *y.shape].
    """

    seminorm: bool = False
    solver: str | ButcherTableau | None = None
    controller: Controller | None = None
    rtol: float | None = None
    atol: float | None = None
    norm: AugmentedNorm | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    name: ClassVar[str] = "adjoint"
    exact: ClassVar[bool] = False

    def recorder(self) -> Recorder:
        return Nothing().recorder()

    def keeps_outputs(self, tableau: ButcherTableau, records: Sequence[SolverStep]) -> bool:
        return True

    def integrate(self, problem: Problem, outputs: Outputs) -> tuple[Tensor, Tensor | None]:
        controller = self._controller(problem.controller)
        if isinstance(controller, AdaptiveController):
            for name, tolerance in (("rtol", controller.rtol), ("atol", controller.atol)):
                if isinstance(tolerance, Tensor):
                    raise ValueError(
                        f"the backward solve of the continuous adjoint needs a number for {name}, not one for each "
                        f"entry of the state: give a controller of its own (odeint_adjoint: adjoint_{name})"
                    )
        return super().integrate(problem, outputs)

    def sweep(self, replay: Replay, cotangents: Cotangents, pullback: Pullback) -> InputGradients:
        assert replay.states is not None
        last = len(replay.times) - 1
        state = cotangents.state(last)
        if state is None:
            state = torch.zeros_like(replay.states[last])
        rate = cotangents.quadrature(last)
        flow = _AdjointFlow(replay.system, pullback)
        total = flow.zero(replay.states)
        t_parts = [replay.t.new_zeros(()) for _ in replay.times]
        for m in range(last, 0, -1):
            if replay.t_wanted:
                t_parts[m] = flow.speed(
                    replay.t[m], replay.states[m], cotangents.state(m), cotangents.quadrature(m)
                ).to(replay.t)
            state, total = self._back(replay, flow, pullback, m, state, rate, total)
            if m == 1 and replay.t_wanted:
                t_parts[0] = -flow.speed(replay.t[0], replay.states[0], state, rate).to(replay.t)
            state = state if cotangents.states is None else state + cotangents.states[m - 1]
            rate = add(rate, cotangents.quadrature(m - 1))
        pullback.add_total(flow.unflatten(total))
        t_grad = torch.stack(t_parts) if replay.t_wanted else None
        return InputGradients(state, total_quadrature(cotangents), t_grad)

    def _controller(self, forward: Controller) -> Controller:
        """Step sizes of the backward solve.

        Raises:
            ValueError: tolerances for fixed steps.
        """
        controller = forward if self.controller is None else self.controller
        tolerances = {name: value for name in ("rtol", "atol") if (value := getattr(self, name)) is not None}
        if not tolerances:
            return controller
        if not isinstance(controller, AdaptiveController):
            raise ValueError(f"{' and '.join(tolerances)} of the adjoint need an adaptive backward solve")
        return replace(controller, **tolerances)

    def _tableau(self, replay: Replay) -> ButcherTableau:
        if self.solver is None:
            return replay.tableau
        return TABLEAUS.find(self.solver)

    def _back(
        self,
        replay: Replay,
        flow: _AdjointFlow,
        pullback: Pullback,
        m: int,
        state: Tensor,
        rate: Tensor | None,
        total: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """lambda and the parameter gradient at t[m-1] from those at t[m]."""
        assert replay.states is not None
        flow.rate = rate
        controller = self._controller(replay.controller)
        if isinstance(controller, AdaptiveController):
            norm = MixedNorm(controller.norm, flow.shapes, self.norm)
            control: Literal["state", "augmented"] = "state" if self.seminorm else "augmented"
            controller = replace(controller, control=control, norm=norm)
        z = torch.stack([replay.states[m], state])
        has_parameters = total.numel() > 0
        problem = Problem(
            system=flow.system(with_parameters=has_parameters),
            y0=z,
            q0=total if has_parameters else None,
            t=replay.t[m - 1 : m + 1].flip(0),
            times=[replay.times[m], replay.times[m - 1]],
            tableau=self._tableau(replay),
            controller=controller,
            parameters=(),
            modules=(),
            closed=False,
            stats=Stats(),
            callbacks=self.callbacks,
        )
        outputs = Outputs(problem.y0, problem.q0)
        with torch.no_grad():
            march(problem, outputs, lambda record, step: pullback.end_step())
        return outputs.states[-1][1], outputs.quadratures[-1] if has_parameters else total


class _AdjointFlow:
    """Right-hand side of the backward solve; `rate` is the (piecewise constant) adjoint of the quadratures."""

    def __init__(self, system: System, pullback: Pullback) -> None:
        self._system, self._pullback = system, pullback
        self._parameters = list(pullback.leaves)
        self.rate: Tensor | None = None
        # Complex parameters lie in the flat quadrature as pairs of real numbers.
        self.shapes = tuple(_as_real(p.detach()).shape for p in self._parameters)
        # Parameters whose gradients are sparse (an embedding's, with sparse=True), and in how many leading dimensions.
        self._sparse: dict[int, int] = {}

    def system(self, *, with_parameters: bool) -> System:
        """What the backward solve integrates; the field sees time and state as in the forward one."""
        outer = self._system.precision
        precision = Precision(outer.kept, fine_time=outer.fine_time)
        return System(self.field, self.rates if with_parameters else None, precision)

    def zero(self, like: Tensor) -> Tensor:
        """The parameter gradient before anything was added, flat and real."""
        return like.real.new_zeros(sum(shape.numel() for shape in self.shapes))

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, [shape.numel() for shape in self.shapes]) if self._parameters else ()
        shaped = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return [
            self._as_gradient(n, (torch.view_as_complex(x) if p.is_complex() else x).to(p.dtype))
            for n, (x, p) in enumerate(zip(shaped, self._parameters, strict=True))
        ]

    def _as_gradient(self, n: int, dense: Tensor) -> Tensor:
        """The gradient of parameter n in the layout that the field's own gradients of it have."""
        return dense.to_sparse(self._sparse[n]) if n in self._sparse else dense

    def field(self, t: Tensor, z: Tensor) -> Tensor:
        return self._evaluate(t, z, [])[0]

    def rates(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        derivative, grads = self._evaluate(t, z, self._parameters)
        flat = []
        for n, (shape, g) in enumerate(zip(self.shapes, grads, strict=True)):
            if g is not None and g.is_sparse:
                self._sparse[n] = g.sparse_dim()
                g = g.to_dense()
            flat.append(z.real.new_zeros(shape.numel()) if g is None else -_as_real(g).flatten().to(z.real.dtype))
        return derivative, torch.cat(flat)

    def _evaluate(self, t: Tensor, z: Tensor, parameters: list[Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
        slope, grads = self._pullback.products(self._system, t, z[0], z[1], self.rate, parameters)
        pulled = torch.zeros_like(slope) if grads[0] is None else -grads[0]
        return torch.stack([slope, pulled]), grads[1:]

    def speed(self, t: Tensor, y: Tensor, state: Tensor | None, rate: Tensor | None) -> Tensor:
        """<lambda, f> + <mu, g>: how the loss changes as a time moves; 0-dim."""
        with torch.no_grad():
            moment = t.detach().to(y.device, self._system.precision.time)
            slope = self._system.slope(moment, y.detach(), with_quadrature=rate is not None)
            total = y.real.new_zeros(())
            if state is not None:
                total = total + (state.conj() * slope.state).real.sum()
            if rate is not None and slope.quadrature is not None:
                total = total + (rate * slope.quadrature).sum()
            return total


def _as_real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
