"""What a gradient method is.

A method is an object, orthogonal to solver and controller: it runs the time loop and decides how the derivative of
the result is made. To add one, write a class in a file of its own and name it in
`symadj_core.gradients.GRADIENTS`. Most derive from `ReplayMethod`, which leaves two decisions open: what of a step
is kept, and how the backward sweep uses it. The tests compare every method that says it is `exact` with `backprop`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C._autograd import _get_current_graph_task_keep_graph
from torch._C._functorch import is_legacy_batchedtensor, maybe_current_level

from symadj_core.gradients.ambient import Ambient
from symadj_core.gradients.keep import Recorder
from symadj_core.gradients.pullback import Pullback
from symadj_core.gradients.substitution import Constants
from symadj_core.solvers.controller import Controller
from symadj_core.solvers.once import Once
from symadj_core.solvers.problem import Problem, Stats
from symadj_core.solvers.step import Step
from symadj_core.solvers.system import System
from symadj_core.solvers.tableaus import ButcherTableau
from symadj_core.solvers.timeloop import Outputs, SolverStep, march


class GradientMethod(ABC):
    """How the derivative of a solve is made."""

    name: ClassVar[str]
    # Whether the gradient is the derivative of the computed solution, to rounding.
    exact: ClassVar[bool] = True
    # Whether the graph of a whole solve is alive at once.
    holds_graph: ClassVar[bool] = False
    # Whether the tensors that the field uses must be known before the solve.
    needs_parameters: ClassVar[bool] = True

    @abstractmethod
    def integrate(self, problem: Problem, outputs: Outputs) -> tuple[Tensor, Tensor | None]:
        """Solve the problem; the results carry the gradient if grad mode is on and an input requires it.

        Returns:
            states [T, *y.shape] and quadratures [T, *q.shape] (None without quadratures) at the requested times.

        Raises:
            SolverError: the end was not reached; `outputs` then holds what was.
        """


@dataclass(frozen=True)
class Cotangents:
    """Derivatives of the loss with respect to the outputs, by index into t; None stands for zero."""

    states: Tensor | None
    quadratures: Tensor | None

    def state(self, index: int | None) -> Tensor | None:
        return None if self.states is None or index is None else self.states[index]

    def quadrature(self, index: int | None) -> Tensor | None:
        return None if self.quadratures is None or index is None else self.quadratures[index]


@dataclass(frozen=True)
class Replay:
    """A forward solve as the backward sweep sees it.

    Attributes:
        system, tableau, controller: as in the forward solve.
        records: the accepted steps.
        kept: for each of them what the recorder kept: its stage states, the first one alone, or nothing.
        slots: how many states may be held at once, if some are missing.
        disposable: whether no later backward will need what was kept.
        t: the requested times, [T].
        times: the same as floats.
        t_wanted: whether the gradient with respect to t is wanted.
        q0: quadratures at the start, or None.
        states: [T, *y.shape], the solution at the requested times, if `ReplayMethod.keeps_outputs` asked for it.
    """

    system: System
    tableau: ButcherTableau
    controller: Controller
    records: Sequence[SolverStep]
    kept: Sequence[Sequence[Tensor]]
    slots: int | None
    disposable: bool
    t: Tensor
    times: list[float]
    t_wanted: bool
    q0: Tensor | None
    states: Tensor | None


@dataclass(frozen=True)
class InputGradients:
    """What a sweep returns beside the parameter gradients, which it leaves in the pullback; None is zero."""

    y0: Tensor | None
    q0: Tensor | None
    t: Tensor | None


class ReplayMethod(GradientMethod):
    """A method that solves forward without a graph and makes the gradient in its own sweep.

    Attributes:
        compiles: whether the sweep pulls back through single uses of the field, which may be compiled as such.
    """

    compiles: ClassVar[bool] = False

    @abstractmethod
    def recorder(self) -> Recorder:
        """Keeps, as the solve goes, those states that the sweep will need."""

    @abstractmethod
    def sweep(self, replay: Replay, cotangents: Cotangents, pullback: Pullback) -> InputGradients:
        """The backward sweep. Parameter gradients are summed by `pullback`."""

    def keeps_outputs(self, tableau: ButcherTableau, records: Sequence[SolverStep]) -> bool:
        """Whether the sweep needs the solution at the requested times."""
        return False

    def integrate(self, problem: Problem, outputs: Outputs) -> tuple[Tensor, Tensor | None]:
        inputs = (problem.t, problem.y0, problem.q0, *problem.parameters)
        if self.compiles:
            problem.system.compile()
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
            if maybe_current_level() is not None:
                raise RuntimeError(
                    f"the gradient {self.name!r} does not work within transforms of torch.func: use 'backprop'"
                )
            result: tuple[Tensor, Tensor | None] = _ReplayedSolve.apply(self, problem, outputs, *inputs)  # type: ignore[no-untyped-call]
            return result
        with torch.no_grad():
            march(problem, outputs, lambda record, step: None)
            return outputs.stacked()


class _ReplayedSolve(torch.autograd.Function):
    """Ties a forward solve and its sweep into autograd.

    Everything kept goes through `save_for_backward`: autograd frees it after a backward without retain_graph,
    notices in-place changes of y0 and of the parameters, and lets saved-tensor hooks move it (to the host, say).
    """

    @staticmethod
    def forward(
        ctx: Any,
        method: ReplayMethod,
        problem: Problem,
        outputs: Outputs,
        t: Tensor,
        y0: Tensor,
        q0: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        records: list[SolverStep] = []
        recorder = method.recorder()

        def on_step(record: SolverStep, step: Step) -> None:
            records.append(record)
            recorder.add(step.states)

        ctx.set_materialize_grads(False)
        constants = Constants(problem.modules)
        ctx.ambient = Ambient.now(y0.device)
        with ctx.ambient.restored():
            problem.system.watch_randomness(y0.device)
            # Of a tensor that requires grad, a field that turns the graph on would get views that say they do, too.
            start = replace(problem, y0=y0.detach(), q0=None if q0 is None else q0.detach())
            march(start, outputs, on_step, expect=recorder.expect)
            problem.system.check_randomness()
        constants.settle()
        states, quadratures = outputs.stacked()
        kept = [x for states in recorder.kept for x in states]
        wants_outputs = method.keeps_outputs(problem.tableau, records)
        ctx.save_for_backward(t, q0, states if wants_outputs else None, *parameters, *kept)
        # Only what holds no tensor of the solve stays on ctx: it outlives the saved tensors.
        ctx.replay = partial(
            Replay,
            system=problem.system,
            tableau=problem.tableau,
            controller=problem.controller,
            records=records,
            slots=recorder.slots,
            times=problem.times,
        )
        ctx.method, ctx.lengths, ctx.stats = method, [len(x) for x in recorder.kept], problem.stats
        ctx.modules, ctx.closed, ctx.constants, ctx.disposed = problem.modules, problem.closed, constants, False
        # Saved so that changes in place are noticed; used as they are, since saved-tensor hooks may hand out copies.
        ctx.parameters = parameters
        problem.stats.checkpoint_bytes = sum(x.nbytes for x in kept if x is not start.y0)
        return states, quadratures

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor | None, grad_quadratures: Tensor | None) -> Any:
        if any(x is not None and is_legacy_batchedtensor(x) for x in (grad_states, grad_quadratures)):
            raise RuntimeError(
                f"the backward of the gradient {ctx.method.name!r} can't be batched (is_grads_batched, a vectorised "
                "jacobian, torch.func.vmap): take one cotangent at a time, or use the gradient 'backprop'"
            )
        t, q0, states, *rest = ctx.saved_tensors
        ctx.constants.check()
        parameters = ctx.parameters
        flat = iter(rest[len(parameters) :])
        kept = [[next(flat) for _ in range(length)] for length in ctx.lengths]
        stats: Stats = ctx.stats
        q_start = None if q0 is None else q0.detach()
        if ctx.disposed:
            raise RuntimeError("a backward of this solve failed, and states that it had freed are missing: solve again")
        disposable = not _get_current_graph_task_keep_graph()
        replay: Replay = ctx.replay(
            kept=kept, disposable=disposable, t=t, t_wanted=ctx.needs_input_grad[3], q0=q_start, states=states
        )
        ctx.disposed = disposable and replay.slots is not None
        before = replay.system.evaluations
        with torch.no_grad(), ctx.ambient.restored(), Pullback(parameters, ctx.modules, ctx.closed) as pullback:
            grads = ctx.method.sweep(replay, Cotangents(grad_states, grad_quadratures), pullback)
        stats.nfe_backward += replay.system.evaluations - before
        results = (grads.t, grads.y0, grads.q0, *pullback.gradients())
        if torch.is_grad_enabled():
            inputs = (t, q0, states, *rest, grad_states, grad_quadratures)
            twice = f"the gradient {ctx.method.name!r} has no second derivative: use the gradient 'backprop'"
            results = tuple(g if g is None else Once.apply(twice, g, *inputs) for g in results)  # type: ignore[no-untyped-call]
        return None, None, None, *results

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(f"the gradient {ctx.method.name!r} has no forward mode: use the gradient 'backprop'")
