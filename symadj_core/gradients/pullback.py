"""Vector-Jacobian products of small pieces of graph, with parameter gradients summed in place."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from symadj_core.discovery import check_closed
from symadj_core.moving import Time
from symadj_core.randomness import RandomState
from symadj_core.system import Slope, System, time_tensor


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
        parameters: tensors whose gradients are wanted.
        modules: the modules that hold them. Parameters that no module holds are pulled back to directly.
        closed: check once that the field depends on no other tensor that requires grad.
    """

    def __init__(self, parameters: Sequence[Tensor], modules: Sequence[nn.Module], closed: bool) -> None:
        self._modules = modules
        self._unchecked = closed
        held = {id(p) for module in modules for p in module.parameters()}
        self._aliased = bool(held) and all(id(p) in held for p in parameters)
        if self._aliased:
            self._leaves: list[Tensor] = [nn.Parameter(p.detach()) for p in parameters]
        else:
            self._leaves = list(parameters)
        self._aliases = {id(p): leaf for p, leaf in zip(parameters, self._leaves, strict=True)}
        self._step: list[Tensor | None] = [None] * len(parameters)
        self._total: list[Tensor | None] = [None] * len(parameters)
        self._replaced: list[tuple[dict[str, Tensor | None], str, Tensor]] = []

    def __enter__(self) -> Pullback:
        for module in (m for root in self._modules for m in root.modules()):
            for name, parameter in module._parameters.items():
                alias = self._aliases.get(id(parameter))
                if self._aliased and parameter is not None and alias is not None:
                    self._replace(module._parameters, name, alias)  # type: ignore[arg-type]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    self._replace(module._buffers, name, buffer.clone())
        return self

    def _replace(self, holder: dict[str, Tensor | None], name: str, by: Tensor) -> None:
        original = holder[name]
        assert original is not None
        self._replaced.append((holder, name, original))
        holder[name] = by

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for holder, name, original in reversed(self._replaced):
            holder[name] = original
        self._replaced.clear()

    def through_stage(
        self,
        system: System,
        t: Time,
        y: Tensor,
        state: Tensor | None,
        quadrature: Tensor | None,
        *,
        time_wanted: bool = False,
        random: RandomState | None = None,
    ) -> StagePullback:
        """Pull cotangents of one stage's slope back to its state, its time and the parameters.

        The graph of one use of the field is alive while this runs, and none after it.

        Args:
            system: f (and g).
            t, y: where the stage is.
            state, quadrature: cotangents of f and g; None is zero, and g is not evaluated then.
            time_wanted: also pull back to the time.
            random: state of the generators to draw from, if the field draws.
        """
        if system.direct is not None and self._aliased and not time_wanted and random is None:
            system.evaluations += 1
            with torch.no_grad():
                return StagePullback(system.direct.pull(time_tensor(t, y), y, state, quadrature), None, None)
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            inputs = [leaf]
            moment = time_tensor(t, y)
            if time_wanted:
                inputs.append(moment.requires_grad_())
            with_quadrature = quadrature is not None
            slope = system.slope(moment, leaf, with_quadrature=with_quadrature, random=random)
            grads = self.through([slope.state, slope.quadrature], [state, quadrature], inputs)
        if not time_wanted:
            return StagePullback(grads[0], None, None)
        rate = None if slope.quadrature is None else slope.quadrature.detach()
        return StagePullback(grads[0], grads[1], Slope(slope.state.detach(), rate))

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
        outs, cots = [out for out, _ in pairs], [cot for _, cot in pairs]
        if self._unchecked:
            check_closed(outs, [*inputs, *self._leaves])
            self._unchecked = False
        if self._aliased:
            torch.autograd.backward(outs, cots, inputs=[*inputs, *self._leaves])
            return [x.grad for x in inputs]
        grads = torch.autograd.grad(outs, [*inputs, *self._leaves], cots, allow_unused=True)
        self._step = [_sum(x, y) for x, y in zip(self._step, grads[len(inputs) :], strict=True)]
        return list(grads[: len(inputs)])

    def end_step(self) -> None:
        """Add the parameter gradients of the step to the total."""
        if self._aliased:
            self._step = [leaf.grad for leaf in self._leaves]
            for leaf in self._leaves:
                leaf.grad = None
        self._total = [_sum(x, y) for x, y in zip(self._total, self._step, strict=True)]
        self._step = [None] * len(self._step)

    @property
    def leaves(self) -> Sequence[Tensor]:
        """What stands for the parameters within the context."""
        return self._leaves

    def add_total(self, grads: Sequence[Tensor]) -> None:
        """Add parameter gradients that were made elsewhere."""
        self._total = [_sum(x, y) for x, y in zip(self._total, grads, strict=True)]

    def gradients(self) -> list[Tensor | None]:
        """The total, parameter by parameter; None for one that the field never used."""
        return self._total


def _sum(total: Tensor | None, x: Tensor | None) -> Tensor | None:
    if total is None or x is None:
        return x if total is None else total
    return total.add_(x)
