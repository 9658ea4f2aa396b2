"""The exact trace of a perceptron of one or two hidden layers, at the cost of one probe, in any dimension.

With d_l = s'(z_l), the trace of J = W_2 diag(d_1) W_1 is linear in d_1, and that of W_3 diag(d_2) W_2 diag(d_1) W_1 is
bilinear in d_1 and d_2, with coefficients that all samples share:

    one:  div f = m . d_1,       m_j = sum_k W_1[j, k] W_2[k, j]
    two:  div f = d_2 . M d_1,   M = W_2 * N^T,  N = W_1 W_3

so that a sample costs one more product of a matrix and a vector, where the trace by unit vectors takes D times as
many. The pullback follows by the chain rule; in three hidden layers there is no such form.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor

from symadj_core.flows.fields.closed_form import (
    AlongProbes,
    Coefficients,
    Column,
    LayerCotangents,
    Perceptron,
    PerceptronRates,
    Take,
    pull_along,
    pull_energy,
)
from symadj_core.flows.fields.products import outer_sum


class ExactTrace(PerceptronRates):
    """With the exact divergence; for two or three layers.

    The exact norm of the Jacobian has no such form: where it is asked for it is estimated along probes.
    """

    _probes: AlongProbes | None = None

    def with_norm(self, noise: Tensor) -> Self:
        """These rates with |J|^2 estimated by the probes `noise` [K, B, D] beside the divergence."""
        rates = copy.copy(self)
        rates._probes = AlongProbes(
            self._layers,
            self._perceptron.activation,
            noise,
            share=1.0 / len(noise),
            context=self._context,
            compiled=self._compiled,
        ).also((Column(norm=1.0),))
        return rates.also((Column(norm=1.0),))

    def _rates(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        f, trace = self._run(_rates, self._perceptron, t, x, self._coefficients(), torch.is_grad_enabled())
        return f, trace, None if self._probes is None else self._probes._rates(t, x)[2]

    def _pull(self, t: Tensor, x: Tensor, cotangents: LayerCotangents) -> Tensor:
        if cotangents.trace is None:
            # Without the trace no probe is needed, and x stands for none.
            return self._run_pull(pull_along, x, x, t, x, cotangents)
        back = self._run_pull(_pull_one if len(self._layers) == 2 else _pull_two, t, x, cotangents)
        if self._probes is not None and cotangents.norm is not None:
            back = back + self._probes._pull(t, x, LayerCotangents(norm=cotangents.norm))
        return back


def _rates(
    perceptron: Perceptron, t: Tensor, x: Tensor, coefficients: Coefficients, differentiable: bool
) -> tuple[Tensor, Tensor]:
    """f [B, D] and div f [B]."""
    activation = perceptron.activation
    maps = [kind.affine(t, *own) for kind, own in zip(perceptron.kinds, coefficients, strict=True)]
    a, slopes = x, []
    for weight, bias in maps[:-1]:
        a, kept = perceptron.hidden(a, weight, bias, differentiable=differentiable)
        slopes.append(activation.slope(kept))
    first, last = maps[0][0][:, : perceptron.dim], maps[-1][0]
    f = perceptron.linear(a, *maps[-1])
    if len(maps) == 2:
        return f, slopes[0] @ (first * last.T).sum(1)
    coupling = maps[1][0] * (first @ last).T
    return f, torch.linalg.vecdot(perceptron.linear(slopes[0], coupling), slopes[1])


def _evaluate(perceptron: Perceptron, a: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Any, Tensor]:
    a, kept = perceptron.hidden(a, weight, bias)
    return a, kept, perceptron.activation.slope(kept)


def _pull_one(
    perceptron: Perceptron, t: Tensor, x: Tensor, cotangents: LayerCotangents, coefficients: Coefficients, take: Take
) -> Tensor:
    """As `pull_along`, for one hidden layer."""
    (w1, b1), (w2, b2) = (k.affine(t, *own) for k, own in zip(perceptron.kinds, coefficients, strict=True))
    first, trace = w1[:, : perceptron.dim], cotangents.trace
    assert trace is not None
    a1, kept, d1 = _evaluate(perceptron, x, w1, b1)
    back = pull_energy(cotangents, a1, w2, b2)
    of_m = trace @ d1
    gradient = torch.addcmul(outer_sum((back, a1)), first.T, of_m)
    take(1, perceptron.kinds[1].pull(t, gradient, back.sum(0), *coefficients[1]))
    m = (first * w2.T).sum(1)
    back = perceptron.activation.bend(perceptron.linear(back, w2.T), torch.outer(trace, m), kept)
    gradient = outer_sum((back, x))
    gradient[:, : perceptron.dim].addcmul_(w2.T, of_m[:, None])
    take(0, perceptron.kinds[0].pull(t, gradient, back.sum(0), *coefficients[0]))
    return perceptron.linear(back, w1.T)


def _pull_two(
    perceptron: Perceptron, t: Tensor, x: Tensor, cotangents: LayerCotangents, coefficients: Coefficients, take: Take
) -> Tensor:
    """As `pull_along`, for two hidden layers."""
    kinds, activation, trace = perceptron.kinds, perceptron.activation, cotangents.trace
    assert trace is not None
    (w1, b1), (w2, b2), (w3, b3) = (k.affine(t, *own) for k, own in zip(kinds, coefficients, strict=True))
    first = w1[:, : perceptron.dim]
    a1, kept1, d1 = _evaluate(perceptron, x, w1, b1)
    a2, kept2, d2 = _evaluate(perceptron, a1, w2, b2)
    transposed = (first @ w3).T
    coupling = w2 * transposed
    onto = perceptron.linear(d1, coupling).mul_(trace[:, None])
    d2 = d2 * trace[:, None]
    of_coupling = outer_sum((d2, d1))
    across = perceptron.linear(d2, coupling.T)
    del d1, d2
    back = pull_energy(cotangents, a2, w3, b3)
    of_product = (of_coupling * w2).T
    take(2, kinds[2].pull(t, outer_sum((back, a2)).addmm_(first.T, of_product), back.sum(0), *coefficients[2]))
    back = activation.bend(perceptron.linear(back, w3.T), onto, kept2)
    gradient = outer_sum((back, a1)).addcmul_(of_coupling, transposed)
    take(1, kinds[1].pull(t, gradient, back.sum(0), *coefficients[1]))
    back = activation.bend(perceptron.linear(back, w2.T), across, kept1)
    gradient = outer_sum((back, x))
    gradient[:, : perceptron.dim].addmm_(of_product, w3.T)
    take(0, kinds[0].pull(t, gradient, back.sum(0), *coefficients[0]))
    return perceptron.linear(back, w1.T)
