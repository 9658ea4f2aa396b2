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

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from symadj_core.flows.activations import Activation
from symadj_core.flows.layers import TimedLinear
from symadj_core.system import Rates


class PerceptronRates:
    """(t, y) -> (f, div f) for one solve, with `pull` for the symplectic sweep.

    In grad mode autograd is used: `differentiable` is the same function by way of it.

    Args:
        layers, activation: the perceptron.
        noise: [K, B, D], the probes.
        differentiable: (t, y) -> (f, div f) with a graph.
    """

    def __init__(
        self, layers: Sequence[TimedLinear], activation: Activation, noise: Tensor, differentiable: Rates
    ) -> None:
        self._layers, self._activation, self._differentiable = list(layers), activation, differentiable
        self._noise = noise

    def __call__(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return self._differentiable(t, y)
        a, tangent = y, self._noise
        for layer in self._layers[:-1]:
            weight, bias = layer.effective(t)
            a, kept = self._activation.evaluate(F.linear(a, weight, bias))
            tangent = self._activation.scale(F.linear(tangent, weight), kept)
        weight, bias = self._layers[-1].effective(t)
        return F.linear(a, weight, bias), self._trace(F.linear(tangent, weight))

    def _trace(self, tangent: Tensor) -> Tensor:
        terms: Tensor = torch.linalg.vecdot(tangent, self._noise)
        return terms[0] if len(terms) == 1 else terms.mean(0)

    def pull(self, t: Tensor, y: Tensor, state: Tensor | None, quadrature: Tensor | None) -> Tensor:
        """Pull cotangents of f [B, D] and div f [B] back to y [B, D], and into the parameters' `.grad`.

        Args:
            t: 0-dim.
            y: [B, D].
            state, quadrature: the cotangents; None is zero.
        """
        along = quadrature is not None
        values, kepts, tangents, speeds, weights = [y], [], [self._noise], [], []
        for layer in self._layers[:-1]:
            weight, bias = layer.effective(t)
            weights.append(weight)
            a, kept = self._activation.evaluate(F.linear(values[-1], weight, bias))
            values.append(a)
            kepts.append(kept)
            if along:
                speeds.append(F.linear(tangents[-1], weight))
                tangents.append(self._activation.scale(speeds[-1], kept))
        weights.append(self._layers[-1].effective(t)[0])
        back = torch.zeros_like(y) if state is None else state
        along_back = None
        if quadrature is not None:
            along_back = self._noise * (quadrature / len(self._noise))[:, None]
        for layer in reversed(self._layers):
            # Lists are emptied on the way, so that what is done with is freed.
            weight = weights.pop()
            gradient = back.T @ values.pop()
            if along_back is not None:
                gradient.addmm_(along_back.flatten(0, 1).T, tangents.pop().flatten(0, 1))
            layer.accumulate(t, gradient, back.sum(0))
            del gradient
            back = back @ weight
            if not kepts:
                break
            kept = kepts.pop()
            if along_back is None:
                back = self._activation.scale(back, kept)
                continue
            along_back = along_back @ weight
            product = speeds.pop().mul_(along_back)
            along_back = self._activation.scale(along_back, kept)
            back = self._activation.bend(back, product[0] if len(product) == 1 else product.sum(0), kept)
        return back
