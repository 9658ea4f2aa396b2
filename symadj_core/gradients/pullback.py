"""Vector-Jacobian products of small pieces of graph, with parameter gradients summed in place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from symadj_core.autograd_engine import accumulate, pulled_back
from symadj_core.gradients.concatenation import Parts, parts_that_count
from symadj_core.gradients.discovery import leaves_of
from symadj_core.gradients.substitution import substituted
from symadj_core.solvers.moving import Time
from symadj_core.solvers.randomness import RandomState
from symadj_core.solvers.system import Slope, System


class StagePullback(NamedTuple):
    """(df/dy)^T kappa; where the time's was asked for, (df/dt)^T kappa and the slope without graph. None is zero."""

    state: Tensor | None
    time: Tensor | None
    slope: Slope | None


class Pullback:
    """Sums the parameter gradients of many pieces of graph while it pulls cotangents through them.

    Within the context the modules' parameters are replaced by leaves that share their storage. Backward then
    accumulates into those leaves' `.grad` layer by layer and in place, so that one stage's parameter gradients never
    stand beside the sum, and no hook of the true parameters (DDP's, for one) fires before the sum is complete.
    Buffers are replaced by copies: a field evaluated again must not update its running statistics again.

    Gradients are summed stage by stage within a step and then step by step: adding a step's sum to the total, rather
    than every stage's share, is what keeps the rounding error of long float32 solves down.

    Args:
        parameters: tensors whose gradients are wanted, each once.
        modules: the modules that hold them. Tensors that no module holds are pulled back to directly.
        closed: no other tensor should get a gradient; it is an error if the field depends on one.

    Raises:
        RuntimeError: a tensor that no module holds has hooks, which would run at every stage.
    """

    def __init__(self, parameters: Sequence[Tensor], modules: Sequence[nn.Module], closed: bool) -> None:
        self._modules, self._closed = modules, closed
        held = {id(p) for module in modules for p in module.parameters()}
        loose = [p for p in parameters if id(p) not in held]
        if any(p._backward_hooks for p in loose):
            raise RuntimeError(
                "a tensor that the field uses has hooks, which would run at every stage: make the field a module that "
                "holds the tensor as a parameter, or use the gradient 'backprop'"
            )
        # Where all are held, gradients are summed in place. Those of loose tensors come from autograd, which may
        # hand out one tensor for several of them: they are never written to.
        self._in_place = bool(parameters) and not loose
        self._leaves = [nn.Parameter(p.detach()) if id(p) in held else p for p in parameters]
        self._aliases = {id(p): leaf for p, leaf in zip(parameters, self._leaves, strict=True) if leaf is not p}
        self._step: list[Tensor | None] = [None] * len(parameters)
        self._total: list[Tensor | None] = [None] * len(parameters)
        self._checked = self._looked = False
        # Of what the slope is the concatenation.
        self._parts: Parts | None = None
        # Places of the parameters on which the field depends, even if all that was pulled to them was zero.
        self._used: set[int] = set()
        self._places = ExitStack()

    def __enter__(self) -> Pullback:
        self._places.enter_context(substituted(self._modules, self._aliases))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.close()

    def through_stage(
        self,
        system: System,
        t: Time,
        y: Tensor,
        state: Tensor | None,
        quadrature: Tensor | None,
        *,
        time_wanted: bool = False,
        rate_wanted: bool = False,
        random: RandomState | None = None,
    ) -> StagePullback:
        """Pull cotangents of one stage's slope back to its state, its time and the parameters.

        The graph of one use of the field is alive while this runs, and none after it.

        Args:
            system: f (and g).
            t, y: where the stage is.
            state, quadrature: cotangents of f and g; None is zero, and g is not evaluated then.
            time_wanted: also pull back to the time, and return the slope.
            rate_wanted: evaluate g for that slope even if its cotangent is zero.
            random: state of the generators to draw from, if the field draws.
        """
        if system.direct is not None and self._in_place and not time_wanted and random is None:
            system.evaluations += 1
            with torch.no_grad():
                return StagePullback(system.direct.pull(system.time(t, y), y, state, quadrature), None, None)
        if self._looked and state is not None and not (time_wanted or rate_wanted) and random is None:
            pulled = self._compiled(system, system.time(t, y), y, state)
            if pulled is not None:
                return pulled
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            inputs = [leaf]
            moment = system.time(t, y)
            if time_wanted:
                inputs.append(moment.requires_grad_())
            with_quadrature = quadrature is not None or rate_wanted
            slope = system.slope(moment, leaf, with_quadrature=with_quadrature, random=random)
            grads = self.through([slope.state, slope.quadrature], [state, quadrature], inputs)
        if not time_wanted:
            return StagePullback(grads[0], None, None)
        rate = None if slope.quadrature is None else slope.quadrature.detach()
        return StagePullback(grads[0], grads[1], Slope(slope.state.detach(), rate))

    def _compiled(self, system: System, t: Tensor, y: Tensor, state: Tensor) -> StagePullback | None:
        """As `through_stage`, by what torch.compile has made of the field; None where it made nothing."""
        if system.compiled is None:
            return None
        cotangent, dim = (state, None) if self._parts is None else self._parts.first_alone(state)
        found = system.compiled.pull(t, y, cotangent, self._leaves, dim)
        if found is None:
            return None
        system.evaluations += 1
        for n, (leaf, grad) in enumerate(zip(self._leaves, found[1:], strict=True)):
            if not self._in_place:
                self._step[n] = _sum(self._step[n], grad)
            elif grad is not None:
                # One tensor may be handed out for several, or be the cotangent itself.
                leaf.grad = grad.clone() if leaf.grad is None else leaf.grad.add_(grad)
        return StagePullback(found[0], None, None)

    def through(
        self,
        outputs: Sequence[Tensor | None],
        cotangents: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Pull cotangents of `outputs` back to the leaves `inputs` and, into the sum, to the parameters."""
        pairs = [
            (out, cot)
            for out, cot in zip(outputs, cotangents, strict=True)
            if out is not None and cot is not None and out.requires_grad
        ]
        if not pairs:
            return [None] * len(inputs)
        self.check([out for out, _ in pairs], inputs)
        parts = [part for out, cot in pairs for part in parts_that_count(out, cot)]
        if not parts:
            return [None] * len(inputs)
        outs, cots = [out for out, _ in parts], [cot for _, cot in parts]
        if self._in_place:
            accumulate(outs, cots, [*inputs, *self._leaves])
            return [x.grad for x in inputs]
        grads = pulled_back(outs, cots, [*inputs, *self._leaves])
        self._step = [_sum(x, y) for x, y in zip(self._step, grads[len(inputs) :], strict=True)]
        return list(grads[: len(inputs)])

    def products(
        self,
        system: System,
        t: Tensor,
        y: Tensor,
        state: Tensor,
        quadrature: Tensor | None,
        parameters: Sequence[Tensor],
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """f without graph; and cotangents of one use of the field pulled back to y and, beside the sum, to parameters.

        Args:
            system: f (and g).
            t, y: where it is used.
            state, quadrature: cotangents of f and g; None is zero, and g is not evaluated then.
            parameters: some of `leaves`.
        """
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            slope = system.slope(t, leaf, with_quadrature=quadrature is not None)
        outs, cots = [], []
        for out, cot in ((slope.state, state), (slope.quadrature, quadrature)):
            if out is not None and cot is not None and out.requires_grad:
                outs.append(out)
                cots.append(cot)
        if not outs:
            return slope.state.detach(), [None] * (1 + len(parameters))
        self.check(outs, [leaf])
        return slope.state.detach(), pulled_back(outs, cots, [leaf, *parameters])

    def check(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        """Check, once a step, that the outputs depend on no tensors whose gradients would be dropped.

        Raises:
            RuntimeError: they do.
        """
        if self._checked:
            return
        self._checked = self._looked = True
        self._parts = Parts.of(outputs[0])
        known = {id(x) for x in (*inputs, *self._leaves)}
        found = {id(leaf): leaf for leaf in leaves_of(outputs)}
        self._used.update(n for n, leaf in enumerate(self._leaves) if id(leaf) in found)
        strangers = [leaf for name, leaf in found.items() if name not in known]
        evading = [x for x in strangers if id(x) in self._aliases]
        if evading:
            raise RuntimeError(
                f"the field uses parameters of its module (shapes {_shapes(evading)}) by way of references made "
                "earlier (a closure, a list, a cached value): use them as the module's attributes"
            )
        if strangers and self._closed:
            raise RuntimeError(
                "the field depends on tensors that require grad and were not found before the solve (shapes "
                f"{_shapes(strangers)}): register them as parameters of the field's module, or pass all tensors whose "
                "gradients are wanted in `parameters`"
            )

    def end_step(self) -> None:
        """Add the parameter gradients of the step to the total.

        A sweep that never calls it gets the same gradient, summed with more rounding over a long solve.
        """
        if self._in_place:
            for n, leaf in enumerate(self._leaves):
                total, gained = self._total[n], leaf.grad
                leaf.grad = None
                if gained is not None:
                    self._total[n] = gained if total is None else total.add_(gained)
        else:
            self._total = [_sum(x, y) for x, y in zip(self._total, self._step, strict=True)]
            self._step = [None] * len(self._step)
        self._checked = False

    @property
    def leaves(self) -> Sequence[Tensor]:
        """What stands for the parameters within the context."""
        return self._leaves

    def add_total(self, grads: Sequence[Tensor]) -> None:
        """Add parameter gradients that were computed elsewhere."""
        self._total = [_sum(x, y) for x, y in zip(self._total, grads, strict=True)]

    def gradients(self) -> list[Tensor | None]:
        """The total, parameter by parameter; None for one that the field never used.

        It includes what a sweep pulled back since it last ended a step.
        """
        self.end_step()
        for n in self._used:
            if self._total[n] is None:
                self._total[n] = torch.zeros_like(self._leaves[n])
        return self._total


def _sum(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    if x is None or y is None:
        return y if x is None else x
    return x + y


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(list(x.shape)) for x in tensors[:3])
