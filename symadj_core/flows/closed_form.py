"""A perceptron, the estimate of its divergence along fixed probes, and the pullback of both, in closed form.

Autograd would differentiate the field once for the divergence and again for the gradient, at the cost of a graph of
graphs. For a perceptron both derivatives are short. With z_l = W_l a_{l-1} + b_l, a_l = s(z_l), and a dot for the
derivative along a probe e (da_0 = e):

    dz_l = W_l da_{l-1},  da_l = s'(z_l) dz_l,  f = z_L,  div f ~ e . dz_L

Cotangents kappa of f and mu of div f go back from Z_L = kappa, dZ_L = mu e:

    A_{l-1} = W_l^T Z_l,  dA_{l-1} = W_l^T dZ_l,  grad W_l += Z_l a_{l-1}^T + dZ_l da_{l-1}^T,  grad b_l += Z_l
    dZ_l = s'(z_l) dA_l,  Z_l = s'(z_l) A_l + s''(z_l) dz_l dA_l

That takes the products of matrices that autograd takes, a third of its passes over memory, and no graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from symadj_core.flows.activations import Activation
from symadj_core.flows.layers import TimedLinear
from symadj_core.system import Rates

Kinds = tuple[type[TimedLinear], ...]
Coefficients = Sequence[tuple[Tensor, ...]]
Take = Callable[[int, tuple[Tensor, ...]], None]


class PerceptronRates:
    """(t, y) -> (f, div f) for one solve, with `pull` for the symplectic sweep.

    In grad mode autograd is used: `differentiable` is the same function by way of it.

    Args:
        layers, activation: the perceptron.
        noise: [K, B, D], the probes.
        differentiable: (t, y) -> (f, div f) with a graph.
        compiled: run the rates and their pullback through torch.compile.
    """

    def __init__(
        self,
        layers: Sequence[TimedLinear],
        activation: Activation,
        noise: Tensor,
        differentiable: Rates,
        *,
        compiled: bool,
    ) -> None:
        self._layers, self._activation, self._differentiable = list(layers), activation, differentiable
        self._noise = noise
        self._kinds: Kinds = tuple(type(layer) for layer in layers)
        self._compiled = compiled

    def __call__(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return self._differentiable(t, y)
        rates = _compiled(_rates) if self._compiled else _rates
        f, trace = rates(self._kinds, self._activation, self._noise, t, y, self._coefficients())
        return f, trace

    def _coefficients(self) -> list[tuple[Tensor, ...]]:
        return [layer.coefficients() for layer in self._layers]

    def pull(self, t: Tensor, y: Tensor, state: Tensor | None, quadrature: Tensor | None) -> Tensor:
        """Pull cotangents of f [B, D] and div f [B] back to y [B, D], and into the parameters' `.grad`.

        Args:
            t: 0-dim.
            y: [B, D].
            state, quadrature: the cotangents; None is zero.
        """
        coefficients = self._coefficients()
        arguments = (self._kinds, self._activation, self._noise, t, y, state, quadrature, coefficients)

        def take(n: int, gradients: tuple[Tensor, ...]) -> None:
            for parameter, gradient in zip(coefficients[n], gradients, strict=True):
                _add(parameter, gradient)

        if not self._compiled:
            # Each layer's gradients are added as they come, so that they never stand beside those of all layers.
            return _pull(*arguments, take)
        back, gradients = _compiled(_pull_all)(*arguments)
        for n, of_layer in enumerate(gradients):
            take(n, of_layer)
        result: Tensor = back
        return result


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function by way of torch.compile; one graph serves all blocks of the same shapes."""
    return torch.compile(function, dynamic=False)


def _rates(
    kinds: Kinds, activation: Activation, noise: Tensor, t: Tensor, y: Tensor, coefficients: Coefficients
) -> tuple[Tensor, Tensor]:
    """f [B, D] and the estimate of div f [B]."""
    a, tangent = y, noise
    for kind, own in zip(kinds[:-1], coefficients[:-1], strict=True):
        weight, bias = kind.affine(t, *own)
        a, kept = activation.evaluate(F.linear(a, weight, bias))
        tangent = activation.scale(F.linear(tangent, weight), kept)
    weight, bias = kinds[-1].affine(t, *coefficients[-1])
    terms: Tensor = torch.linalg.vecdot(F.linear(tangent, weight), noise)
    return F.linear(a, weight, bias), terms[0] if len(terms) == 1 else terms.mean(0)


def _pull(
    kinds: Kinds,
    activation: Activation,
    noise: Tensor,
    t: Tensor,
    y: Tensor,
    state: Tensor | None,
    quadrature: Tensor | None,
    coefficients: Coefficients,
    take: Take,
) -> Tensor:
    """The cotangent of y [B, D]; `take` is given each layer's number and gradients, the last layer first."""
    along = quadrature is not None
    values, kepts, tangents, speeds, weights = [y], [], [noise], [], []
    for kind, own in zip(kinds[:-1], coefficients[:-1], strict=True):
        weight, bias = kind.affine(t, *own)
        weights.append(weight)
        a, kept = activation.evaluate(F.linear(values[-1], weight, bias))
        values.append(a)
        kepts.append(kept)
        if along:
            speeds.append(F.linear(tangents[-1], weight))
            tangents.append(activation.scale(speeds[-1], kept))
    weights.append(kinds[-1].affine(t, *coefficients[-1])[0])
    back = torch.zeros_like(y) if state is None else state
    along_back = None if quadrature is None else noise * (quadrature / len(noise))[:, None]
    for n in reversed(range(len(kinds))):
        # Lists are emptied on the way, so that what is done with is freed.
        weight = weights.pop()
        gradient = back.T @ values.pop()
        if along_back is not None:
            gradient.addmm_(along_back.flatten(0, 1).T, tangents.pop().flatten(0, 1))
        take(n, kinds[n].pull(t, gradient, back.sum(0), *coefficients[n]))
        del gradient
        back = back @ weight
        if not kepts:
            break
        kept = kepts.pop()
        if along_back is None:
            back = activation.scale(back, kept)
            continue
        along_back = along_back @ weight
        product = speeds.pop().mul_(along_back)
        along_back = activation.scale(along_back, kept)
        back = activation.bend(back, product[0] if len(product) == 1 else product.sum(0), kept)
    return back


def _pull_all(
    kinds: Kinds,
    activation: Activation,
    noise: Tensor,
    t: Tensor,
    y: Tensor,
    state: Tensor | None,
    quadrature: Tensor | None,
    coefficients: Coefficients,
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """`_pull` with the layers' gradients, first layer first, as results: what can be compiled."""
    gradients: list[tuple[Tensor, ...]] = []
    back = _pull(
        kinds,
        activation,
        noise,
        t,
        y,
        state,
        quadrature,
        coefficients,
        lambda _, of_layer: gradients.insert(0, of_layer),
    )
    return back, gradients


def _add(parameter: Tensor, gradient: Tensor) -> None:
    """Add to `.grad`, which takes over the tensor where it is the first."""
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
