"""A perceptron, its divergence, and the pullback of both, in closed form.

Autograd would differentiate the field once for the divergence and again for the gradient, at the cost of a graph of
graphs. For a perceptron both derivatives are short. With z_l = W_l a_{l-1} + b_l, a_l = s(z_l), and a dot for the
derivative along a probe e (da_0 = e):

    dz_l = W_l da_{l-1},  da_l = s'(z_l) dz_l,  f = z_L,  J e = dz_L,  div f ~ e . J e,  |J|^2 ~ |J e|^2

Cotangents kappa of f and mu of J e go back from Z_L = kappa, dZ_L = mu:

    A_{l-1} = W_l^T Z_l,  dA_{l-1} = W_l^T dZ_l,  grad W_l += Z_l a_{l-1}^T + dZ_l da_{l-1}^T,  grad b_l += Z_l
    dZ_l = s'(z_l) dA_l,  Z_l = s'(z_l) A_l + s''(z_l) dz_l dA_l

That takes the products of matrices that autograd takes, a third of its passes over memory, and no graph. A context
stands beside y in a_0, with e zero there; the unit vectors as probes give the exact trace.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from symadj_core.compilation import compiled
from symadj_core.flows.fields.activations import Activation
from symadj_core.flows.fields.layers import TimedLinear
from symadj_core.flows.fields.products import linear, outer_sum

Coefficients = Sequence[tuple[Tensor, ...]]
Take = Callable[[int, tuple[Tensor, ...]], None]
Context = Callable[[], Tensor]


class Column(NamedTuple):
    """A quantity integrated beside the divergence: weights of |f|^2 / 2 and of |df/dy|_F^2."""

    energy: float = 0.0
    norm: float = 0.0


@dataclass(frozen=True)
class Perceptron:
    """A perceptron and the requested quantities, without the tensors.

    Attributes:
        kinds: of its layers.
        activation: between them.
        dim: D; inputs of the first layer beyond these are context.
        columns: what is integrated after the divergence.
        share: weight of one probe in the sum over probes.
        repeated: the same shapes will come again and again, since a gradient is wanted of the solve; not compiled.
    """

    kinds: tuple[type[TimedLinear], ...]
    activation: Activation
    dim: int
    columns: tuple[Column, ...] = ()
    share: float = 1.0
    repeated: bool = False

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x W^T + b."""
        return (linear if self.repeated else F.linear)(x, weight, bias)

    def hidden(self, x: Tensor, weight: Tensor, bias: Tensor, *, differentiable: bool = False) -> tuple[Tensor, Any]:
        """s(x W^T + b) and what s' needs; by autograd if asked."""
        if differentiable:
            return self.activation.with_graph(F.linear(x, weight, bias))
        if self.repeated:
            return self.activation.after_linear(x, weight, bias)
        return self.activation.evaluate(F.linear(x, weight, bias))


class LayerCotangents(NamedTuple):
    """Of f [B, D], div f [B], |f|^2 / 2 [B] and |J|^2 [B]; None is zero."""

    state: Tensor | None = None
    trace: Tensor | None = None
    energy: Tensor | None = None
    norm: Tensor | None = None


class PerceptronRates(ABC):
    """(t, y) -> (f, div f) for one solve, with `pull` for the symplectic sweep.

    Args:
        layers, activation: the perceptron.
        dim: D.
        context: gives the contexts [B, C]; None for none.
        compiled: run the rates and their pullback through torch.compile.
        share: weight of one probe in the sum over probes.
    """

    def __init__(
        self,
        layers: Sequence[TimedLinear],
        activation: Activation,
        dim: int,
        *,
        context: Context | None,
        compiled: bool,
        share: float = 1.0,
    ) -> None:
        self._layers = list(layers)
        kinds, repeated = tuple(type(layer) for layer in layers), torch.is_grad_enabled() and not compiled
        self._perceptron = Perceptron(kinds, activation, dim, share=share, repeated=repeated)
        self._context, self._compiled = context, compiled

    def also(self, columns: Sequence[Column]) -> Self:
        """These rates with R columns after the divergence: [B, 1 + R] in place of [B] beside f."""
        rates = copy.copy(self)
        rates._perceptron = replace(self._perceptron, columns=tuple(columns))
        return rates

    @abstractmethod
    def _rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """f, div f and (None where it is not asked for) |J|^2; x [B, D + C] are y and the context."""

    @abstractmethod
    def _pull(self, t: Tensor, x: Tensor, cotangents: LayerCotangents) -> Tensor:
        """The cotangent of x; those of the parameters are added to their `.grad`."""

    def __call__(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f, trace, norm = self._rates(t, self._inputs(y))
        if not self._perceptron.columns:
            return f, trace
        half_energy = 0.5 * f.square().sum(-1) if any(column.energy for column in self._perceptron.columns) else None
        columns = [_weighed(column, half_energy, norm) for column in self._perceptron.columns]
        return f, torch.stack([trace, *columns], -1)

    def pull(self, t: Tensor, y: Tensor, state: Tensor | None, quadrature: Tensor | None) -> Tensor:
        """Pull cotangents of f [B, D] and of the quadratures' rates back to y [B, D], and into `.grad`.

        Args:
            t: 0-dim.
            y: [B, D].
            state, quadrature: the cotangents; None is zero.
        """
        back = self._pull(t, self._inputs(y), self._cotangents(state, quadrature))
        if self._context is None:
            return back
        context = self._context()
        _add(context, back[:, self._perceptron.dim :].to(context.dtype))
        return back[:, : self._perceptron.dim]

    def _cotangents(self, state: Tensor | None, quadrature: Tensor | None) -> LayerCotangents:
        columns = self._perceptron.columns
        if quadrature is None or not columns:
            return LayerCotangents(state, quadrature)
        trace, *parts = quadrature.unbind(-1)
        energy = norm = None
        for column, part in zip(columns, parts, strict=True):
            energy = _plus(energy, column.energy, part)
            norm = _plus(norm, column.norm, part)
        return LayerCotangents(state, trace, energy, norm)

    def _inputs(self, y: Tensor) -> Tensor:
        return y if self._context is None else torch.cat([y, self._context().to(y.dtype)], -1)

    def _coefficients(self) -> list[tuple[Tensor, ...]]:
        return [layer.coefficients() for layer in self._layers]

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return (_compiled(function) if self._compiled else function)(*arguments)

    def _run_pull(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Run a pullback, whose last argument takes the gradients of the layers."""
        coefficients = self._coefficients()

        def take(n: int, gradients: tuple[Tensor, ...]) -> None:
            for parameter, gradient in zip(coefficients[n], gradients, strict=True):
                _add(parameter, gradient)

        if not self._compiled:
            # Each layer's gradients are added as they come, so that they never stand beside those of all layers.
            return function(self._perceptron, *arguments, coefficients, take)
        back, gradients = _compiled(_gathered(function))(self._perceptron, *arguments, coefficients)
        for n, of_layer in enumerate(gradients):
            take(n, of_layer)
        result: Tensor = back
        return result


def _weighed(column: Column, half_energy: Tensor | None, norm: Tensor | None) -> Tensor:
    """The column's rate [B] from |f|^2 / 2 and |J|^2, each given if it has a weight in any column."""
    total = _plus(_plus(None, column.energy, half_energy), column.norm, norm)
    assert total is not None
    return total


def _plus(total: Tensor | None, weight: float, part: Tensor | None) -> Tensor | None:
    """total + weight * part; None is zero."""
    if weight == 0.0 or part is None:
        return total
    part = part if weight == 1.0 else weight * part
    return part if total is None else total + part


class AlongProbes(PerceptronRates):
    """With the divergence along probes.

    Args:
        noise: [K, B, D], the probes; shared by all samples it may be [K, 1, D].
    """

    def __init__(
        self,
        layers: Sequence[TimedLinear],
        activation: Activation,
        noise: Tensor,
        *,
        share: float,
        context: Context | None = None,
        compiled: bool = False,
    ) -> None:
        dim = noise.shape[-1]
        super().__init__(layers, activation, dim, context=context, compiled=compiled, share=share)
        extra = 0 if context is None else context().shape[-1]
        self._tangent = F.pad(noise, (0, extra)) if extra else noise
        self._noise = self._tangent[..., :dim]

    def _rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        arguments = (self._perceptron, self._noise, self._tangent, t, x, self._coefficients())
        f, trace, norm = self._run(_along, *arguments, torch.is_grad_enabled())
        # Without a hidden layer, probes that all samples share have products that all share.
        return f, trace.expand(x.shape[0]), None if norm is None else norm.expand(x.shape[0])

    def _pull(self, t: Tensor, x: Tensor, cotangents: LayerCotangents) -> Tensor:
        return self._run_pull(pull_along, self._noise, self._tangent, t, x, cotangents)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One graph serves all blocks of the same shapes; past the shapes that torch compiles for, it runs as it is."""
    return compiled(function, dynamic=False, whole=False)


@functools.cache
def _gathered(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, list[tuple[Tensor, ...]]]]:
    """The pullback with the layers' gradients, first layer first, as results: what can be compiled."""

    def gathered(*arguments: Any) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        gradients: list[tuple[Tensor, ...]] = []
        back = function(*arguments, lambda _, of_layer: gradients.insert(0, of_layer))
        return back, gradients

    return gathered


def _along(
    perceptron: Perceptron,
    noise: Tensor,
    tangent: Tensor,
    t: Tensor,
    x: Tensor,
    coefficients: Coefficients,
    differentiable: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """f [B, D], and the sums over the probes for div f [B] and |J|^2 [B]; `differentiable` by autograd if asked."""
    a, kinds = x, perceptron.kinds
    for kind, own in zip(kinds[:-1], coefficients[:-1], strict=True):
        weight, bias = kind.affine(t, *own)
        a, kept = perceptron.hidden(a, weight, bias, differentiable=differentiable)
        tangent = perceptron.activation.scale(perceptron.linear(tangent, weight), kept)
    weight, bias = kinds[-1].affine(t, *coefficients[-1])
    return perceptron.linear(a, weight, bias), *_sums(perceptron, noise, perceptron.linear(tangent, weight))


def _sums(perceptron: Perceptron, noise: Tensor, moved: Tensor) -> tuple[Tensor, Tensor | None]:
    """The sums over e of e . J e and, if it is asked for, of |J e|^2, weighted; `moved` is J e [K, B, D]."""

    def summed(terms: Tensor) -> Tensor:
        total = terms[0] if len(terms) == 1 else terms.sum(0)
        return total if perceptron.share == 1.0 else total * perceptron.share

    wants_norm = any(column.norm for column in perceptron.columns)
    norm = summed(moved.square().sum(-1)) if wants_norm else None
    return summed(torch.linalg.vecdot(moved, noise)), norm


def pull_along(
    perceptron: Perceptron,
    noise: Tensor,
    tangent: Tensor,
    t: Tensor,
    x: Tensor,
    cotangents: LayerCotangents,
    coefficients: Coefficients,
    take: Take,
) -> Tensor:
    """The cotangent of x [B, D + C]; `take` is given each layer's number and gradients, the last layer first."""
    kinds, activation = perceptron.kinds, perceptron.activation
    along = cotangents.trace is not None or cotangents.norm is not None
    values, kepts, tangents, speeds, weights = [x], [], [tangent], [], []
    for kind, own in zip(kinds[:-1], coefficients[:-1], strict=True):
        weight, bias = kind.affine(t, *own)
        weights.append(weight)
        a, kept = perceptron.hidden(values[-1], weight, bias)
        values.append(a)
        kepts.append(kept)
        if along:
            speeds.append(perceptron.linear(tangents[-1], weight))
            tangents.append(activation.scale(speeds[-1], kept))
    weight, bias = kinds[-1].affine(t, *coefficients[-1])
    weights.append(weight)
    back = pull_energy(cotangents, values[-1], weight, bias)
    along_back = None
    if along:
        along_back = _pull_sums(perceptron, noise, cotangents, tangents[-1], weight)
    for n in reversed(range(len(kinds))):
        # Lists are emptied on the way, so that finished tensors are freed.
        weight = weights.pop()
        pairs = [(back, values.pop())]
        if along_back is not None:
            pairs.append((along_back.flatten(0, 1), tangents.pop().expand(*along_back.shape[:2], -1).flatten(0, 1)))
        gradient = outer_sum(*pairs)
        del pairs
        take(n, kinds[n].pull(t, gradient, back.sum(0), *coefficients[n]))
        del gradient
        back = perceptron.linear(back, weight.T)
        if not kepts:
            break
        kept = kepts.pop()
        if along_back is None:
            back = activation.scale(back, kept)
            continue
        along_back = perceptron.linear(along_back, weight.T)
        speed = speeds.pop()
        product = speed.mul_(along_back) if speed.shape == along_back.shape else speed * along_back
        along_back = activation.scale(along_back, kept)
        back = activation.bend(back, product[0] if len(product) == 1 else product.sum(0), kept)
    return back


def pull_energy(cotangents: LayerCotangents, last: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The whole cotangent of f = W last + b [B, D]: its own, and what |f|^2 / 2 gives it."""
    back = last.new_zeros(len(last), len(bias)) if cotangents.state is None else cotangents.state
    if cotangents.energy is None:
        return back
    return torch.addcmul(back, F.linear(last, weight, bias), cotangents.energy[:, None])


def _pull_sums(
    perceptron: Perceptron, noise: Tensor, cotangents: LayerCotangents, tangent: Tensor, weight: Tensor
) -> Tensor:
    """The cotangent of J e [K, B, D], for the tangents [K, B, H] before the last layer."""
    share, trace, norm = perceptron.share, cotangents.trace, cotangents.norm
    back = None if trace is None else noise * (trace * share)[:, None]
    if norm is not None:
        stretched = perceptron.linear(tangent, weight) * (norm * (2.0 * share))[:, None]
        back = stretched if back is None else back + stretched
    assert back is not None
    return back


def _add(parameter: Tensor, gradient: Tensor) -> None:
    """Add to `.grad`, which takes over the tensor where it is the first."""
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
